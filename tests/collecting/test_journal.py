"""Journals and settings of interrupted work."""

from __future__ import annotations

from pathlib import Path

import pytest

from unprompt.collecting import journal
from unprompt.errors import OutputError, UnpromptError


def contents(path: Path) -> list[dict[str, object]]:
    return [entry for _, entry in journal.entries(path)]


def test_entries_come_back_in_order_and_by_place(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "j.jsonl"
    assert contents(path) == []
    journal.append(path, map(journal.to_line, [{"a": 1}, {"b": "line\nbreak, ü"}]))
    journal.append(path, [journal.to_line({"c": None})])
    assert contents(path) == [{"a": 1}, {"b": "line\nbreak, ü"}, {"c": None}]
    places = [place for place, _ in journal.entries(path)]
    with path.open("rb") as file:
        assert [journal.entry_at(file, place) for place in reversed(places)] == [
            {"c": None},
            {"b": "line\nbreak, ü"},
            {"a": 1},
        ]
        with pytest.raises(OutputError, match="changed while it was read"):
            journal.entry_at(file, places[1] + 1)


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_line_that_a_killed_process_left_costs_that_line_only(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    last = journal.to_line({"b": 12})
    assert len(last) == 10
    journal.append(path, [journal.to_line({"a": 1}), last])
    path.write_bytes(path.read_bytes()[:-cut])
    assert contents(path) == [{"a": 1}]
    journal.append(path, [journal.to_line({"c": 3})])
    # Only the line break was lost: then the entry is whole after all.
    whole = [{"b": 12}] if cut == 1 else []
    assert contents(path) == [{"a": 1}, *whole, {"c": 3}]


def test_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        journal.append(tmp_path, [])


def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    assert not journal.has_settings(path, {"size": 1})
    journal.write_settings(path, {"size": 1, "seed": 0})
    assert journal.has_settings(path, {"seed": 0, "size": 1})
    with pytest.raises(UnpromptError, match=r"\(format: None there, png now, size: 1 there, 2 now"):
        journal.has_settings(path, {"seed": 0, "size": 2, "format": "png"})
    with pytest.raises(UnpromptError, match="seed: 0 there, None now"):
        journal.has_settings(path, {"size": 1})
    path.write_text("{")
    with pytest.raises(UnpromptError, match="not JSON"):
        journal.has_settings(path, {})
