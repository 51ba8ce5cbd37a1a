"""How models are recognised, and what loading them imports."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import unprompt.predicting
from unprompt.errors import MissingExtraError, ModelNotFoundError, UnpromptError
from unprompt.files import write_json
from unprompt.predicting import loading
from unprompt.predicting.loading import BY_FILE, BY_PREFIX, BY_TYPE, load_model


@pytest.mark.parametrize("file", BY_FILE)
def test_a_file_of_the_folder_counts_before_its_type(tmp_path: Path, file: str) -> None:
    write_json(tmp_path / "config.json", {"model_type": "blip"})
    assert loading._loader_of_folder(tmp_path) is BY_TYPE["blip"]
    (tmp_path / file).touch()
    assert loading._loader_of_folder(tmp_path) is BY_FILE[file]


@pytest.mark.parametrize("model_type", BY_TYPE)
def test_a_type_has_its_loader(tmp_path: Path, model_type: str) -> None:
    write_json(tmp_path / "config.json", {"model_type": model_type})
    assert loading._loader_of_folder(tmp_path) is BY_TYPE[model_type]


@pytest.mark.parametrize("prefix", BY_PREFIX)
def test_a_prefix_needs_no_hub(prefix: str) -> None:
    assert loading._loader_of_name(f"{prefix}anything") is BY_PREFIX[prefix]


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match=r"is not a model.*model\.onnx.*config\.json"):
        load_model(tmp_path)
    write_json(tmp_path / "config.json", {})
    with pytest.raises(UnpromptError, match=r"type 'None' predicts no prompts.*unprompt-embedder"):
        load_model(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"'someone/nothing'.*cannot be downloaded"):
        load_model("someone/nothing")


@pytest.mark.parametrize("model_type", ["unprompt-embedder", "coca", "blip", "clip", "siglip"])
def test_without_torch_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    write_json(tmp_path / "config.json", {"model_type": model_type})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"needs torch.*unprompt\[train\]"):
        load_model(tmp_path)


def test_the_built_in_model_loads_without_torch() -> None:
    code = (
        "import sys; from unprompt.predicting.predictor import Predictor; Predictor().bank;"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_modules_of_predicting_import_each_other_in_one_direction() -> None:
    """Imports inside functions count; those for type checkers do not."""
    imports = {}
    for path in Path(unprompt.predicting.__path__[0]).glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        tree.body = [
            node
            for node in tree.body
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ]
        named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert "import_module" not in ast.unparse(tree), path
        imports[path.stem] = {
            name.removeprefix("unprompt.predicting.")
            for name in named
            if name.startswith("unprompt.predicting.")
        }
    assert "loading" in imports["bank_or_decoder"], "the walk finds imports"
    list(graphlib.TopologicalSorter(imports).static_order())  # raises CycleError
