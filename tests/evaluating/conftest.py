from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unprompt.cli import main
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.bank.bank import Bank
from unprompt.models.embedder import Embedder, EmbedderConfig
from unprompt.pairs.table import Pair, PairsTable, load, save
from unprompt.predicting.embedding_model import EmbeddingModel
from unprompt.predicting.loading import load_model

DIM, SIZE = 384, 32
EVIL = '<script>alert("owned")</script> & a "quoted" prompt'
COUNT = {"train": 24, "val": 8, "test": 12}


def drawn(count: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured noise with random prompt embeddings; one prompt is an attack on web pages."""
    folder = tmp_path_factory.mktemp("table")
    random = np.random.default_rng(5)
    splits = [split for split, count in COUNT.items() for _ in range(count)]
    pairs = []
    for row, (split, embedding) in enumerate(zip(splits, drawn(len(splits), seed=9), strict=True)):
        noise = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 40)).save(folder / f"{row}.png")
        pairs.append(
            Pair(
                f"id{row}",
                f"{row}.png",
                EVIL if row == len(splits) - 1 else f"prompt {row}",
                source=["[/b]one", "two", None][row % 3],
                group=row // 2,
                split=split,
                embedding=embedding.tolist(),
            )
        )
    save(PairsTable.from_pairs(pairs, folder), folder / "pairs.parquet")
    return folder / "pairs.parquet"


@pytest.fixture
def table(table_file: Path) -> PairsTable:
    return load(table_file)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, table_file: Path) -> Path:
    """A tiny random embedder with a bank of the training prompts and the attack."""
    torch.manual_seed(0)
    backbone = create_backbone(BackboneConfig("timm/test_resnet"), pretrained=False, size=SIZE)
    model = Embedder(EmbedderConfig(backbone.config, dim=DIM), backbone).eval()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    train = load(table_file).of_split("train")
    prompts, rows = [*train.prompts, EVIL], np.vstack([train.embeddings, drawn(1, seed=3)])
    Bank.build(prompts, rows, model.architecture.encoder).save(folder)
    return folder


@pytest.fixture(scope="session")
def model(model_folder: Path) -> EmbeddingModel:
    return load_model(model_folder, device="cpu")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached, and says so without retrying for a minute."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the entry of the installed command: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unprompt", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
