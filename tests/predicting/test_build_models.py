"""Banks built from files, and searched by text and by image."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from unprompt.cli import app
from unprompt.encoding import encode
from unprompt.errors import OutputError, TableError, UnreadableImageError
from unprompt.models.bank.bank import Bank
from unprompt.predicting import build_models as module
from unprompt.predicting.bank_search import search_bank
from unprompt.predicting.build_models import build_bank
from unprompt.predicting.predictor import Predictor

from .conftest import picture

PROMPTS = ["a red fox in the snow", "a castle at dusk", "a bowl of soup", "a robot, oil painting"]


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    lines = [*PROMPTS, "", " a  castle at\tdusk ", *PROMPTS, "a fox"]
    path.write_bytes("\r\n".join(lines).encode())
    return path


@pytest.fixture(scope="module")
def bank_folder(prompts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("banks") / "mine"
    build_bank(prompts_file, folder)
    return folder


def test_repeated_prompts_are_kept_once_whatever_the_block(
    prompts_file: Path, bank_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(Bank.load(bank_folder).prompts) == [*PROMPTS, "a fox"]
    monkeypatch.setattr(module, "_BLOCK", 2)
    small = build_bank(prompts_file, tmp_path / "small")
    assert list(small.prompts) == [*PROMPTS, "a fox"]
    np.testing.assert_array_equal(small.rows, Bank.load(bank_folder).rows)


def test_a_table_is_as_good_as_a_text_file(tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "file": "a.png", "prompt": p, "exact": True, "width": 1, "height": 1}
        for i, p in enumerate(PROMPTS)
    ]
    table = tmp_path / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(build_bank(table, tmp_path / "bank").prompts) == PROMPTS


def test_text_and_image_are_found(bank_folder: Path, tmp_path: Path) -> None:
    best, second = search_bank(bank_folder, "the fox in snow", 2)
    assert best.prompt == "a red fox in the snow"
    asked = encode(["the fox in snow", best.prompt])
    assert best.cosine == pytest.approx(float(asked[0] @ asked[1]), abs=0.01)
    assert second.prompt == "a fox"
    picture(0).save(tmp_path / "picture.png")
    answer = Predictor(route="embed", bank=bank_folder).predict(tmp_path / "picture.png")
    assert search_bank(bank_folder, tmp_path / "picture.png", 1)[0].prompt == answer.prompt
    with pytest.raises(OSError, match="too long"):
        Path("x" * 5000).stat()
    assert search_bank(bank_folder, "x" * 5000, 1)
    with pytest.raises(UnreadableImageError, match="no such file"):
        search_bank(bank_folder, "absent.png", 1)


def test_the_predicted_embedding_can_be_regressed(bank_folder: Path) -> None:
    plain = Predictor(bank=bank_folder).predict(picture(1))
    drawn = Predictor(bank=bank_folder, knn=3).predict(picture(1))
    assert plain.embedding is not None
    assert drawn.embedding is not None
    expected = Bank.load(bank_folder).regress(plain.embedding[None], 3)[0]
    np.testing.assert_allclose(drawn.embedding, expected, atol=1e-6)


def test_the_verbs(prompts_file: Path, bank_folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bank", "build", str(prompts_file), "-o", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert "5 prompts" in done.output
    call = ["bank", "search", str(tmp_path / "b"), "soup", "--top-k", "1", "--format", "json"]
    done = CliRunner().invoke(app, call)
    assert json.loads(done.stdout)["prompt"] == "a bowl of soup"


def test_sources_that_cannot_be(tmp_path: Path, bank_folder: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(TableError, match="holds no prompts"):
        build_bank(tmp_path / "empty.txt", tmp_path / "bank")
    with pytest.raises(TableError, match="cannot be read"):
        build_bank(tmp_path / "missing.txt", tmp_path / "bank")
    (tmp_path / "latin.txt").write_bytes(b"one\ntw\xf6\n")
    with pytest.raises(TableError, match="line 2: not UTF-8"):
        build_bank(tmp_path / "latin.txt", tmp_path / "bank")
    (tmp_path / "some.txt").write_text("a cat\n")
    with pytest.raises(OutputError, match="not empty"):
        build_bank(tmp_path / "some.txt", bank_folder)
