"""The page of the Python API: every example runs, and every public name is on it."""

import re
from pathlib import Path

import pytest

import unprompt

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")


@pytest.mark.parametrize("name", unprompt.__all__)
def test_every_public_name_is_on_the_page(name: str) -> None:
    assert re.search(rf"unprompt\.{name}\b|`{name}`", PAGE)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Blank lines stand for the text between the examples, so that an error names the page's line.
    lines, inside = [], False
    for line in PAGE.splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            lines.append("")
        else:
            lines.append(line if inside else "")
    assert PAGE.count("```python") >= 15
    exec(compile("\n".join(lines), "docs/api.md", "exec"), {"__name__": "page"})
