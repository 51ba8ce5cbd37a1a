from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.models.bank import lines as module
from unprompt.models.bank.lines import Lines

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=9)


@settings(max_examples=60)
@given(rows=st.lists(TEXT, max_size=20), chunk=st.integers(1, 30))
def test_lines_are_what_was_written(tmp_path_factory, rows, chunk):
    path = tmp_path_factory.mktemp("lines") / "prompts.txt"
    path.write_bytes("".join(f"{row}\n" for row in rows).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        lines = Lines(path)
    assert len(lines) == len(rows)
    assert list(lines) == rows
    assert lines[1:] == rows[1:]
    assert [lines[-1 - row] for row in range(len(rows))] == rows[::-1]
    with pytest.raises(IndexError):
        lines[len(rows)]


def test_files_that_are_no_lines(tmp_path):
    with pytest.raises(FileNotFoundError):
        Lines(tmp_path / "missing.txt")
    (tmp_path / "cut.txt").write_bytes(b"one\ntw")
    with pytest.raises(ValueError, match="cut off"):
        Lines(tmp_path / "cut.txt")
