"""What importing costs, and what the light install can do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unprompt

HEAVY = ("torch", "transformers", "timm", "open_clip", "polars", "faiss", "scipy", "matplotlib")


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing() -> None:
    script = "import sys; import unprompt; print(*sys.modules)"
    loaded = set(run(script).split())
    assert "numpy" not in loaded
    assert "PIL" not in loaded


def test_the_imports_for_type_checkers_agree_with_the_table() -> None:
    source = Path(unprompt.__file__).read_text("utf-8")
    typed = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("unprompt."):
            module = str(node.module).removeprefix("unprompt.")
            for alias in node.names:
                public = alias.asname or alias.name
                typed[public] = module if public == alias.name else f"{module}:{alias.name}"
    assert typed == unprompt._HOMES
    assert sorted(unprompt.__all__) == unprompt.__all__


@pytest.mark.parametrize("name", unprompt.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(unprompt, name).__doc__
    assert name in dir(unprompt)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        unprompt.nothing_of_the_kind  # noqa: B018


def test_the_module_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unprompt", "--version"], capture_output=True, text=True
    )
    assert done.stdout == f"unprompt {unprompt.__version__}\n"


@pytest.mark.parametrize("verb", ["read", "predict"])
def test_the_light_verbs_load_no_heavy_library(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    script = f"""
import sys
from PIL import Image
from unprompt import write_prompt
write_prompt(Image.radial_gradient("L"), sys.argv[1], "a moon")
for name in {HEAVY!r}:
    sys.modules[name] = None
from unprompt.cli import app
app(["{verb}", sys.argv[1]], standalone_mode=False)
import unprompt
if "{verb}" == "predict":
    print(unprompt.predict(Image.radial_gradient("L").convert("RGB")))
"""
    assert "a moon" in run(script, str(path))


def test_help_loads_no_heavy_library() -> None:
    script = f"""
import sys
from unprompt.cli import app
try:
    app(["--help"])
except SystemExit:
    pass
print("HEAVY", *[name for name in {(*HEAVY, "numpy", "onnxruntime", "PIL")!r}
                 if name in sys.modules])
"""
    assert run(script).splitlines()[-1] == "HEAVY"


def test_a_verb_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {table: nowhere.parquet}\n")
    script = (
        "import sys; import importlib.machinery as m;"
        "find = m.PathFinder.find_spec;"
        "m.PathFinder.find_spec = classmethod("
        "lambda cls, name, *a: None if name == 'torch' else find(name, *a));"
        f"sys.argv = ['unprompt', 'train', {str(recipe)!r}];"
        "from unprompt.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'unprompt[train]'" in done.stderr
