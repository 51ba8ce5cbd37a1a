"""The notebook that a newcomer opens, run from its first cell to its last."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "predict.ipynb"


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
