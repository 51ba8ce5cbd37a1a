"""Every verb that is given a file of prompts reads a CSV file's column, and never its header."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from omegaconf import OmegaConf
from typer.testing import CliRunner

from tests.models.conftest import tiny_hf_clip
from unprompt.cli import app
from unprompt.collecting.compose import compose
from unprompt.encoding import encode
from unprompt.errors import TableError
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.bank.bank import Bank
from unprompt.models.embedder import Embedder, EmbedderConfig
from unprompt.pairs.prompt_file import prompts_of
from unprompt.pairs.table import load

PROMPTS = list(compose(50, style="sketch"))


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "caption"), *enumerate(PROMPTS)])
    return path


@pytest.fixture
def no_prompts(tmp_path: Path) -> Path:
    (tmp_path / "none.csv").write_text("id,words\n1,a cat\n")
    return tmp_path / "none.csv"


def refuses(*arguments: object) -> None:
    with pytest.raises(TableError, match=r"none\.csv: has no column of prompts"):
        call(*arguments)


def test_encode(table, no_prompts, tmp_path):
    fast = ("--backend", "onnx", "--precision", "fp32")
    call("encode", table, "-o", tmp_path / "out.npy", *fast)
    assert np.abs(np.load(tmp_path / "out.npy") - encode(PROMPTS, precision="fp32")).max() < 1e-5
    refuses("encode", no_prompts, "-o", tmp_path / "none.npy", *fast)


def test_bank_build(table, no_prompts, tmp_path):
    call("bank", "build", table, "-o", tmp_path / "bank", "--precision", "fp32")
    assert list(Bank.load(tmp_path / "bank").prompts) == PROMPTS
    refuses("bank", "build", no_prompts, "-o", tmp_path / "none")


def test_zero_shot_knn(table, no_prompts, tmp_path):
    clip = ("zero-shot", "knn", tiny_hf_clip(tmp_path / "clip"))
    call(*clip, table, "-o", tmp_path / "knn", "--precision", "fp32")
    assert list(Bank.load(tmp_path / "knn").prompts) == PROMPTS
    refuses(*clip, no_prompts, "-o", tmp_path / "none")


def test_zero_shot_head(table, no_prompts, tmp_path):
    clip = tiny_hf_clip(tmp_path / "clip")
    done = call("zero-shot", "head", clip, table, "-o", tmp_path / "head", "--device", "cpu")
    held_out = round(0.05 * len(PROMPTS))
    assert f"head of {len(PROMPTS) - held_out} prompts" in done.stderr
    refuses("zero-shot", "head", clip, no_prompts, "-o", tmp_path / "none")


def test_dedup(table, no_prompts, tmp_path):
    call("dedup", table, "--threshold", "1", "-o", tmp_path / "distinct.txt")
    assert prompts_of(tmp_path / "distinct.txt") == PROMPTS
    call("dedup", table, "--against", table, "--threshold", "1", "-o", tmp_path / "left.txt")
    assert prompts_of(tmp_path / "left.txt") == []
    refuses("dedup", no_prompts)
    refuses("dedup", table, "--against", no_prompts)


def test_generate(table, no_prompts, tmp_path):
    sketch = ("--backend", "sketch", "--image-size", "32")
    call("generate", table, "-o", tmp_path / "images", *sketch)
    assert load(tmp_path / "images").prompts == PROMPTS
    refuses("generate", no_prompts, "-o", tmp_path / "none", *sketch)


def test_export(table, no_prompts, tmp_path):
    backbone = create_backbone(BackboneConfig("timm/test_resnet"), pretrained=False, size=32)
    Embedder(EmbedderConfig(backbone.config), backbone).save_pretrained(tmp_path / "model")
    export = ("export", tmp_path / "model", "-o")
    call(*export, tmp_path / "onnx", "--prompts", table)
    assert list(Bank.load(tmp_path / "onnx").prompts) == PROMPTS
    refuses(*export, tmp_path / "none", "--prompts", no_prompts)


def test_train_a_decoder(table, no_prompts, tmp_path):
    recipe = {
        "output": str(tmp_path / "run"),
        "data": {"table": str(table), "val": 0.1, "workers": 0},
        "decoder": {"vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2, "num_beams": 1},
        "schedule": {"max_steps": 1, "batch_size": 16, "evaluations": 1, "precision": "fp32"},
    }
    OmegaConf.save(OmegaConf.create(recipe), tmp_path / "recipe.yaml")
    call("train", tmp_path / "recipe.yaml")
    assert prompts_of(tmp_path / "run" / "pairs.parquet") == PROMPTS
    again = (f"output={tmp_path / 'none'}", f"data.table={no_prompts}")
    refuses("train", tmp_path / "recipe.yaml", *again)


def test_compose_beside(table, no_prompts, tmp_path):
    done = call("compose", "-n", "3", "-o", tmp_path / "new.txt", "--beside", table)
    row = next(line for line in done.stdout.splitlines() if line.startswith(str(table)))
    assert row.split()[1] == str(len(PROMPTS))
    refuses("compose", "-n", "3", "-o", tmp_path / "new.txt", "--beside", no_prompts)
