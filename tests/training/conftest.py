from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from unprompt.collecting.compose import compose
from unprompt.collecting.generate import generate
from unprompt.collecting.sketches.sketch import SketchBackend
from unprompt.pairs.table import PairsTable, load, save
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.embedder_trainer import EmbedderTrainer
from unprompt.training.recipe import Data, Model, Optimiser, Recipe, Schedule
from unprompt.training.train_embedder import build, prepare_backbone

PAIRS = 60
SIZE = 32
DIM = 12


def colours_and_noise(prompts: list[str]) -> np.ndarray:
    """Embeddings that a tiny model can learn: a direction for each colour word, and a little noise.

    They stand in for the real encoder where the encoder does not matter.
    """
    random = np.random.default_rng(0)
    words = sorted({word.strip(",.") for prompt in prompts for word in prompt.split()})
    direction = dict(zip(words, random.normal(size=(len(words), DIM)), strict=True))
    rows = np.array(
        [sum(direction[word.strip(",.")] for word in prompt.split()) for prompt in prompts]
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def sketches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of sketches without embeddings and splits."""
    folder = tmp_path_factory.mktemp("sketches")
    return generate(compose(PAIRS, style="sketch"), folder, SketchBackend(64)).table


@pytest.fixture(scope="session")
def pairs(sketches: Path, tmp_path_factory: pytest.TempPathFactory) -> PairsTable:
    """The same with small embeddings, 40 pairs of train, 10 of val and 10 of test."""
    table = load(sketches)
    table = table.with_columns(
        {
            "embedding": colours_and_noise(table.prompts),
            "split": ["train"] * 40 + ["val"] * 10 + ["test"] * 10,
            "group": list(range(PAIRS)),
            "source": ["one" if row % 2 else "two" for row in range(PAIRS)],
        }
    )
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    save(table, path)
    return load(path)


@pytest.fixture
def recipe(pairs: PairsTable, tmp_path: Path) -> Recipe:
    """A run of a few seconds: a tiny random network, six steps, all in this process."""
    return Recipe(
        output=str(tmp_path / "run"),
        data=Data(table=pairs.name, augment="none", workers=0),
        model=Model(backbone="timm/test_resnet", pretrained=False, size=SIZE),
        optimiser=Optimiser(learning_rate=1e-3, head_learning_rate=1e-2),
        schedule=Schedule(max_steps=6, batch_size=8, precision="fp32", evaluations=3, keep=2),
    )


def trainer_of(recipe: Recipe, pairs, rows: int = 16) -> EmbedderTrainer:
    torch.manual_seed(recipe.seed)
    model = build(recipe, pairs.embeddings.shape[1])
    prepare_backbone(model, recipe)
    few = PairsDataset(pairs.take(range(rows)), model.preprocessing)
    return EmbedderTrainer(recipe, model, few, few)


class After(TrainerCallback):
    def __init__(self, run):
        self._run = run

    def on_step_end(self, args, state, control, **kwargs):
        self._run()
