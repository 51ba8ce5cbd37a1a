"""How good an embedder is on a pairs table, beside baselines that anyone could run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from unprompt.encoding import encode
from unprompt.errors import TableError, UnpromptError
from unprompt.evaluating.metrics import Score, cosines, mean_with_interval
from unprompt.pairs.table import PairsTable
from unprompt.predicting.model import EmbeddingModel, embed_images
from unprompt.progress import track

NEIGHBOURS = 10


@dataclass(frozen=True)
class Result:
    """Scores of one predictor: over all pairs, and per source.

    Attributes:
        name: the model, or the baseline.
        overall: mean cosine over all pairs.
        per_source: the same for the pairs of each source.
        values: cosine of each pair, float64 of shape (n,).
    """

    name: str
    overall: Score
    per_source: dict[str, Score]
    values: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Evaluation:
    """A model's result on one split, and what it took.

    Attributes:
        table: name of the pairs table.
        split: the split, or None for the whole table.
        model: the model's result.
        baselines: results of the baselines, on the same pairs.
        pairs: the pairs that were evaluated.
        predicted: the model's embeddings, float32 of shape (n, dim).
        true: embeddings of the true prompts, likewise.
        failures: one line for each pair whose image could not be decoded; they count nowhere.
        images_per_second: from encoded files to embeddings.
    """

    table: str
    split: str | None
    model: Result
    baselines: list[Result]
    pairs: PairsTable = field(repr=False)
    predicted: np.ndarray = field(repr=False)
    true: np.ndarray = field(repr=False)
    failures: list[str]
    images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pairs and the embeddings, ready for JSON."""
        return {
            "table": self.table,
            "split": self.split,
            "model": _result_dict(self.model),
            "baselines": [_result_dict(result) for result in self.baselines],
            "failures": self.failures,
            "images_per_second": round(self.images_per_second, 1),
        }


@dataclass(frozen=True)
class Reference:
    """What the baselines know: the training split.

    Attributes:
        embeddings: prompt embeddings, float32 of shape (n, dim).
        features: backbone features of the model under test, float32 of shape (n, width).
    """

    embeddings: np.ndarray = field(repr=False)
    features: np.ndarray = field(repr=False)


def reference_of(
    model: EmbeddingModel, train: PairsTable, batch_size: int = 32, progress: bool = False
) -> Reference:
    """The baselines' knowledge, from the pairs of a training split.

    Raises:
        TableError: there are no pairs, or no image of them can be decoded.
    """
    _, features, kept, _ = _predict(model, train, batch_size, "Baselines", progress)
    train = train.take(kept)
    return Reference(_true_embeddings(train, model.encoder), features)


def evaluate(
    model: EmbeddingModel,
    table: PairsTable,
    split: str | None = "test",
    reference: Reference | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Evaluation:
    """Measure mean cosine between predicted and true prompt embeddings.

    Args:
        model: the embedder.
        table: pairs with splits; prompt embeddings are made where they are missing.
        split: which split to measure on; None takes the whole table.
        reference: the training split, to measure baselines on the same pairs: its mean embedding,
            the prompt of a random pair, and the mean embedding of the ten pairs whose backbone
            features are nearest (cosine). No baselines without it.
        batch_size: images a batch.
        progress: show a bar.

    Raises:
        TableError: the split is not there, or no image of it can be decoded.
    """
    chosen = table.of_split(split) if split else table
    started = time.perf_counter()
    predicted, features, kept, failures = _predict(
        model, chosen, batch_size, "Evaluating", progress
    )
    seconds = time.perf_counter() - started
    chosen = chosen.take(kept)
    true = _true_embeddings(chosen, model.encoder)
    guesses = _baselines(reference, features) if reference else ()
    return Evaluation(
        table=table.name,
        split=split,
        model=_result(model.name, predicted, true, chosen),
        baselines=[_result(name, guess, true, chosen) for name, guess in guesses],
        pairs=chosen,
        predicted=predicted,
        true=true,
        failures=failures,
        images_per_second=len(kept) / seconds,
    )


def _predict(
    model: EmbeddingModel, table: PairsTable, batch_size: int, what: str, progress: bool
) -> tuple[np.ndarray, np.ndarray, list[int], list[str]]:
    """Embeddings, features, rows that could be decoded, and a line for each that could not."""
    at_least = 2 * model.preprocessing.size
    openers = (partial(table.open_image, row, at_least) for row in range(len(table)))
    embeddings, features, kept, failures = [], [], [], []
    outputs = track(embed_images(model, openers, batch_size), what, len(table), progress)
    for row, output in enumerate(outputs):
        if isinstance(output, UnpromptError):
            failures.append(str(output))
        else:
            embeddings.append(output[0])
            features.append(output[1])
            kept.append(row)
    if not kept:
        raise TableError(f"{table.name}: none of the {len(table)} images can be decoded")
    return np.array(embeddings), np.array(features), kept, failures


def _true_embeddings(table: PairsTable, encoder: str) -> np.ndarray:
    if table.has("embedding"):
        return table.embeddings
    return encode(table.prompts, encoder, precision="fp32")


def _baselines(reference: Reference, features: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    train, count = reference.embeddings, len(features)
    yield "mean training embedding", np.tile(train.mean(axis=0), (count, 1))
    drawn = np.random.default_rng(0).integers(len(train), size=count)
    yield "random training prompt", train[drawn]
    k = min(NEIGHBOURS, len(train))
    known = reference.features / np.linalg.norm(reference.features, axis=1, keepdims=True)
    guesses = np.empty((count, train.shape[1]), dtype=np.float32)
    for start in range(0, count, 1024):
        similar = features[start : start + 1024] @ known.T
        nearest = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        guesses[start : start + 1024] = train[nearest].mean(axis=1)
    yield f"kNN over backbone features (k = {k})", guesses


def _result(name: str, predicted: np.ndarray, true: np.ndarray, pairs: PairsTable) -> Result:
    values = cosines(predicted, true)
    groups = np.array(pairs.column("group")) if pairs.has("group") else None
    sources = np.array([source or "unknown" for source in pairs.column("source")])
    per_source = {}
    for source in sorted(set(sources)):
        rows = sources == source
        per_source[str(source)] = mean_with_interval(
            values[rows], None if groups is None else groups[rows]
        )
    return Result(name, mean_with_interval(values, groups), per_source, values)


def _result_dict(result: Result) -> dict[str, Any]:
    def score(value: Score) -> dict[str, Any]:
        return {
            "cosine": round(value.mean, 4),
            "interval": [round(value.low, 4), round(value.high, 4)],
            "pairs": value.count,
        }

    per_source = {source: score(value) for source, value in result.per_source.items()}
    return {"name": result.name, **score(result.overall), "per_source": per_source}
