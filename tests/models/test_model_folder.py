"""JSON files of a model's folder: whole, damaged and missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.files import write_json
from unprompt.models.model_folder import damaged, hub_errors, is_decoder, read_json


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"name": "žluťoučký", "size": 3})
    assert read_json(tmp_path / "config.json") == {"name": "žluťoučký", "size": 3}


@pytest.mark.parametrize("content", ["{", "[]", "3", ""])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UnpromptError, match=r"config\.json is damaged.*write it again"):
        read_json(tmp_path / "config.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json is missing"):
        read_json(tmp_path / "config.json")


def test_a_missing_value_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "knn.json"
    missing, wrong = r"knn\.json is damaged.*it states no 'size'", r"knn\.json is damaged.*literal"
    with pytest.raises(UnpromptError, match=missing), damaged(path):
        {}["size"]
    with pytest.raises(UnpromptError, match=wrong), damaged(path):
        int("many")
    with pytest.raises(UnpromptError, match="this one stays"), damaged(path):
        raise UnpromptError("this one stays")


def test_a_model_that_the_hub_does_not_give_is_named() -> None:
    for error in (OSError("no route"), ValueError("no such name")):
        message = rf"'a/b'.*\({type(error).__name__}\)"
        with pytest.raises(ModelNotFoundError, match=message), hub_errors("a/b"):
            raise error


def test_a_decoder_is_known_by_its_type(tmp_path: Path) -> None:
    assert not is_decoder(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "unprompt-embedder"})
    assert not is_decoder(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "unprompt-decoder"})
    assert is_decoder(tmp_path)
