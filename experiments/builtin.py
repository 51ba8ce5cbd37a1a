"""How well heads transfer to sources that they have not seen: leave one source out.

Run: python experiments/builtin.py [--run runs/builtin] [--folds runs/leave_one_out]

Every head uses the same frozen backbone (recipes/builtin.yaml). For each source of ../shared/pairs
it is fitted on all other sources; the two sets of AI-Horde styles share their scenes and are left
out together. The features are those of `unprompt train recipes/builtin.yaml` (10 minutes on one
core if it was not run before). Each fold takes about two minutes and is kept in a file, so a
stopped run continues.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from unprompt.encoding import DEFAULT_ENCODER, encode
from unprompt.evaluating.metrics import cosines, mean_with_interval
from unprompt.files import atomic_open
from unprompt.models.bank.bank import unit
from unprompt.models.embedder import Embedder
from unprompt.models.heads import ClassesHead, HeadConfig, create_head
from unprompt.pairs.prompt_file import prompts_of
from unprompt.pairs.table import PairsTable
from unprompt.training.data.features import features_of
from unprompt.training.head.classes import fit_classes_head, set_classes
from unprompt.training.head.ridge import Moments, ridges
from unprompt.training.recipe import load_recipe
from unprompt.training.run import prepare
from unprompt.training.train_embedder import build

RECIPE = Path(__file__).parents[1] / "recipes" / "builtin.yaml"
RELATED = {"ai_horde_styles_previews2": "ai_horde_styles"}
NEIGHBOURS = 10
V1_PENALTY = 0.1
"""The penalty that v1's recipe chose on its validation groups."""


@dataclass(frozen=True)
class Known:
    """The inputs and targets of a head, for all pairs.

    Attributes:
        features: of the backbone, float32 of shape (n, width).
        embeddings: of the prompts, float32 of shape (n, dim).
    """

    features: np.ndarray
    embeddings: np.ndarray


def main() -> None:
    """Measure, fold by fold, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/builtin"))
    parser.add_argument("--folds", type=Path, default=Path("runs/leave_one_out"))
    options = parser.parse_args()
    table = prepare(load_recipe(RECIPE), options.run)
    sets = np.array([name.split("/")[0] for name in table.column("id")])
    families = np.array([RELATED.get(name, name) for name in sets])
    recipe = load_recipe(RECIPE, ["model.head.prior=null", "model.head.landmarks=0"])
    embedder = build(recipe, dim=384).eval()
    known = known_of(embedder, table)
    assert isinstance(embedder.head, ClassesHead)
    users = prompts_of(str(load_recipe(RECIPE).model.head.prior))
    scores: dict[str, np.ndarray] = {}
    for family in sorted(set(families)):
        path = options.folds / f"{family}.json"
        if not path.exists():
            left_out = families == family
            found = fold(embedder.head, known, table, left_out, users)
            with atomic_open(path) as file:
                json.dump({name: values.tolist() for name, values in found.items()}, file)
        for name, values in json.loads(path.read_text()).items():
            scores.setdefault(name, np.zeros(len(table)))[families == family] = values
    show(scores, sets, table.prompts)


def known_of(embedder: Embedder, table: PairsTable) -> Known:
    """Features of all pairs, split by split, as a training run asks for them and keeps them."""
    features = np.zeros((len(table), embedder.backbone.dim), np.float32)
    splits = np.array(table.column("split"))
    for split in ("train", "val", "test"):
        found = features_of(embedder, table.of_split(split))
        if found.failures:
            raise SystemExit("\n".join(found.failures))
        features[splits == split] = found.values
    return Known(features, unit(table.embeddings))


def fold(
    head: ClassesHead,
    known: Known,
    table: PairsTable,
    left_out: np.ndarray,
    users: list[str],
) -> dict[str, np.ndarray]:
    """Cosines of the pairs that are left out, for each way of predicting them."""
    rest = ~left_out
    sources = [source or "unknown" for source in table.column("source")]
    features, embeddings = known.features, known.embeddings
    prior = encode(users).mean(axis=0)
    config = HeadConfig("classes", landmarks=load_recipe(RECIPE).model.head.landmarks)
    fitted = create_head(config, features.shape[1], embeddings.shape[1]).eval()
    assert isinstance(fitted, ClassesHead)
    set_classes(fitted, head.classifier, DEFAULT_ENCODER, users)
    rows = np.flatnonzero(rest)
    fit_classes_head(
        fitted,
        features[rows],
        embeddings[rows],
        [sources[row] for row in rows],
        [table.prompts[row] for row in rows],
    )

    def taught(memory: bool) -> Callable[[np.ndarray], np.ndarray]:
        def predict(asked: np.ndarray) -> np.ndarray:
            remembered, fitted.memory = fitted.memory, fitted.memory if memory else None
            predicted = fitted(torch.from_numpy(asked)).detach().numpy()
            fitted.memory = remembered
            return predicted

        return predict

    def linear(asked: np.ndarray) -> np.ndarray:
        [weights] = ridges(Moments.of(features[rest], embeddings[rest]), [V1_PENALTY])
        return weights(asked)

    def neighbours(asked: np.ndarray) -> np.ndarray:
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (asked, features)]
        similar = unit[0] @ unit[1][rest].T
        nearest = np.argpartition(-similar, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        return embeddings[rest][nearest].mean(axis=1)

    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "prior (mean prompt of users)": lambda asked: np.tile(prior, (len(asked), 1)),
        "mean of the other sources": lambda asked: np.tile(
            embeddings[rest].mean(axis=0), (len(asked), 1)
        ),
        f"kNN, k = {NEIGHBOURS}": neighbours,
        "linear, as v1": linear,
        "classes": taught(memory=False),
        "classes and memory (v2)": taught(memory=True),
    }
    return {
        name: cosines(way(features[left_out]), embeddings[left_out]) for name, way in ways.items()
    }


def show(scores: dict[str, np.ndarray], sets: np.ndarray, prompts: list[str]) -> None:
    """A row for each set with bootstrap intervals over its prompts, and the mean over the sets."""
    print("| left out (pairs) | " + " | ".join(scores) + " |")
    print("|---" * (1 + len(scores)) + "|")
    groups = np.unique(prompts, return_inverse=True)[1]
    means: dict[str, list[float]] = {name: [] for name in scores}
    for name in sorted(set(sets)):
        rows = sets == name
        cells = []
        for way, values in scores.items():
            score = mean_with_interval(values[rows], groups[rows])
            means[way].append(score.mean)
            cells.append(f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]")
        print(f"| {name} ({rows.sum()}) | " + " | ".join(cells) + " |")
    print(
        "| **mean over sets** | " + " | ".join(f"{np.mean(v):.3f}" for v in means.values()) + " |"
    )


if __name__ == "__main__":
    main()
