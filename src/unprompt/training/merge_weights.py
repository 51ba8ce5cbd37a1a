"""Averages of fine-tuned models' weights: model soups, and WiSE-FT.

Models that were fine-tuned from the same start lie in one basin, and their average often scores
better than each of them, above all on data unlike the training data: uniform and greedy model soups
(Wortsman et al. 2022, arXiv 2203.05482); between a start and its fine-tuned model, WiSE-FT
(Wortsman et al. 2021, arXiv 2109.01903). The average is no larger than one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from unprompt.devices import choose_device, placed
from unprompt.errors import UnpromptError
from unprompt.evaluating.metrics import Score, cosines, mean_with_interval
from unprompt.models.embedder import Embedder
from unprompt.pairs.table import PairsTable, as_table
from unprompt.predicting.embedding_model import TorchModel
from unprompt.training.data.images import TrainingImages

SHARES = tuple(np.linspace(0, 1, 11).round(1).tolist())
"""Shares of the second model that `best_interpolation` tries."""


@dataclass(frozen=True)
class AveragedModel:
    """An average of models.

    Attributes:
        model: with the averaged weights.
        weights: the share of each given model, summing to 1.
        tried: shares and mean cosine of each measured average, in the order of trial.
    """

    model: Embedder = field(repr=False)
    weights: list[float]
    tried: list[tuple[list[float], Score]] = field(default_factory=list)

    @property
    def score(self) -> Score | None:
        """Score of the average, if it was measured."""
        return next((score for weights, score in self.tried if weights == self.weights), None)


def merge_weights(
    models: Sequence[str | Path],
    folder: str | Path | None = None,
    weights: Sequence[float] | None = None,
    greedy: PairsTable | str | Path | None = None,
    interpolate: PairsTable | str | Path | None = None,
) -> AveragedModel:
    """Average the weights of models that were fine-tuned from the same start.

    Args:
        models: two or more embedders: folders or hub ids.
        folder: folder to write the average to, as a model.
        weights: share of each model, relative to one another; equal by default.
        greedy: keep a model only if the score on this table's split ``val`` rises, see
            `greedy_average`.
        interpolate: take the best point between two models on this table's split ``val``, see
            `best_interpolation`.

    Raises:
        ModelNotFoundError: a model does not exist.
        TableError: no pair of the split can be used.
        UnpromptError: the number of models does not fit, their architectures differ, or more than
            one way to choose the shares is given.
    """
    if sum(option is not None for option in (weights, greedy, interpolate)) > 1:
        raise UnpromptError("--weights, --greedy and --interpolate exclude one another")
    if len(models) < 2 or (interpolate is not None and len(models) > 2):
        wanted = "two models or more" if interpolate is None else "exactly two models"
        raise UnpromptError(f"{len(models)} given; an average needs {wanted}")
    if greedy is not None:
        made = greedy_average(models, as_table(greedy))
    elif interpolate is not None:
        made = best_interpolation(models[0], models[1], as_table(interpolate))
    else:
        made = average(models, weights)
    if folder is not None:
        made.model.save_pretrained(folder)
    return made


def average(folders: Sequence[str | Path], weights: Sequence[float] | None = None) -> AveragedModel:
    """The weighted average of models' weights and running statistics.

    Args:
        folders: of embedders, or hub repositories.
        weights: of each, relative to one another; equal by default.

    Raises:
        ModelNotFoundError: a model does not exist.
        UnpromptError: their architectures differ, or the weights do not fit.
    """
    weights = [1.0] * len(folders) if weights is None else list(weights)
    if len(weights) != len(folders):
        raise UnpromptError(f"{len(weights)} weights for {len(folders)} models; give one for each")
    if not weights or not np.isfinite(weights).all() or sum(weights) <= 0:
        raise UnpromptError("the weights must be finite, with a sum above 0")
    shares = [weight / sum(weights) for weight in weights]
    model = Embedder.from_pretrained(folders[0])
    mixed = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in _floats(model)}
    for folder, share in zip(folders, shares, strict=True):
        other = Embedder.from_pretrained(folder)
        _check_alike(model, other, folders[0], folder)
        for name, value in _floats(other):
            mixed[name] += share * value.double()
    return AveragedModel(_with(model, mixed), shares)


def greedy_average(
    folders: Sequence[str | Path], table: PairsTable, split: str = "val"
) -> AveragedModel:
    """The greedy average: each model, the best first, stays in it if the score rises.

    Args:
        folders: of embedders, or hub repositories.
        table: pairs with prompt embeddings, for the score.
        split: of the table.

    Raises:
        ModelNotFoundError: a model is not there.
        TableError: no pair of the split can be used.
        UnpromptError: their architectures differ.
    """
    held_out, count = table.of_split(split), len(folders)
    tried = [_measured(folders, _shares([place], count), held_out) for place in range(count)]
    first, *others = sorted(range(count), key=lambda place: -tried[place][1].mean)
    chosen, best = [first], tried[first][1].mean
    for place in others:
        shares = _shares([*chosen, place], count)
        tried.append(_measured(folders, shares, held_out))
        if tried[-1][1].mean > best:
            chosen, best = [*chosen, place], tried[-1][1].mean
    shares = _shares(chosen, count)
    return AveragedModel(_mixed(folders, shares), shares, tried)


def best_interpolation(
    start: str | Path, tuned: str | Path, table: PairsTable, split: str = "val"
) -> AveragedModel:
    """WiSE-FT: the best point on the line from one model to another; see `SHARES`.

    Args:
        start: the model before fine-tuning, with a fitted or zero-shot head.
        tuned: the model after fine-tuning.
        table: pairs with prompt embeddings, for the score.
        split: of the table.

    Raises:
        ModelNotFoundError: a model is not there.
        TableError: no pair of the split can be used.
        UnpromptError: their architectures differ.
    """
    ends, held_out = [start, tuned], table.of_split(split)
    tried = [_measured(ends, [1 - share, share], held_out) for share in SHARES]
    weights, _ = max(tried, key=lambda item: item[1].mean)
    return AveragedModel(_mixed(ends, weights), weights, tried)


def score(model: Embedder, table: PairsTable, batch_size: int = 64) -> Score:
    """Mean cosine of a model on a table; the images are decoded once and cached on disk."""
    images = TrainingImages(table, model.preprocessing, whole=True).keep()
    rows = images.readable
    loaded = TorchModel(placed(model, choose_device()), "average", Path())
    batches = np.array_split(rows, range(batch_size, len(rows), batch_size))
    outputs = [loaded.run(np.stack([images.pixels(row) for row in batch])) for batch in batches]
    model.to("cpu")
    predicted = np.concatenate([output[0] for output in outputs])
    values = cosines(predicted, table.embeddings[rows])
    groups = np.array(table.column("group"))[rows] if table.has("group") else None
    return mean_with_interval(values, groups)


def _measured(
    folders: Sequence[str | Path], shares: list[float], held_out: PairsTable
) -> tuple[list[float], Score]:
    return shares, score(_mixed(folders, shares), held_out)


def _mixed(folders: Sequence[str | Path], shares: Sequence[float]) -> Embedder:
    """The average; models with a share of 0 are not read."""
    taken = [place for place, share in enumerate(shares) if share]
    return average([folders[place] for place in taken], [shares[place] for place in taken]).model


def _shares(chosen: list[int], count: int) -> list[float]:
    return [(place in chosen) / len(chosen) for place in range(count)]


def _floats(model: Embedder) -> list[tuple[str, torch.Tensor]]:
    return [(n, value) for n, value in model.state_dict().items() if value.is_floating_point()]


def _with(model: Embedder, mixed: dict[str, torch.Tensor]) -> Embedder:
    state = model.state_dict()
    model.load_state_dict(state | {name: v.to(state[name].dtype) for name, v in mixed.items()})
    return model


def _check_alike(one: Embedder, other: Embedder, first: str | Path, second: str | Path) -> None:
    shapes = [{name: value.shape for name, value in _floats(model)} for model in (one, other)]
    if (
        shapes[0] != shapes[1]
        or one.architecture.head.normalise != other.architecture.head.normalise
    ):
        raise UnpromptError(
            f"{second} has another architecture than {first}; only models that were fine-tuned "
            "from the same start can be averaged"
        )
    if one.preprocessing != other.preprocessing:
        raise UnpromptError(
            f"{second} and {first} have different preprocessing ({other.preprocessing} and "
            f"{one.preprocessing}), so they have no average"
        )
