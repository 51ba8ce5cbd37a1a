"""The notebook runs from its first cell to its last, and scripts import names that exist."""

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = REPOSITORY / "examples" / "predict.ipynb"
SCRIPTS = [
    path.relative_to(REPOSITORY)
    for folder in ("examples", "benchmarks", "experiments")
    for path in sorted((REPOSITORY / folder).glob("*.py"))
]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_scripts_import_names_that_exist(script: Path) -> None:
    tree = ast.parse((REPOSITORY / script).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("unprompt")]
    for node in ours:
        module = importlib.import_module(str(node.module))
        for name in node.names:
            assert hasattr(module, name.name) or find_spec(f"{node.module}.{name.name}")


def test_the_notebook_runs_and_says_what_its_text_says(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # What an earlier run showed would only go stale.
    assert all(not cell.outputs for cell in cells)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = ["".join(_texts(cell.outputs)) for cell in cells]
    drawing, read, predicted, similar, many, *_ = (" ".join(text.split()) for text in shown)
    assert "PIL" in drawing
    assert "'read', 'a red house in a green meadow'" in read
    assert predicted.count("asked for:") == 4
    assert predicted.count(" or: ") == 8
    assert similar.count("1. ") == 4
    assert "broken.png | None | not an image" in many
    assert list(tmp_path.iterdir()) == []


def _texts(outputs: list[nbformat.NotebookNode]) -> list[str]:
    return [
        str(output.get("text") or output.get("data", {}).get("text/plain", ""))
        for output in outputs
    ]
