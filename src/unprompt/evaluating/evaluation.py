"""How good an embedder is on a pairs table, beside baselines that anyone could run."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from unprompt.encoding import encode
from unprompt.errors import TableError, UnpromptError
from unprompt.evaluating.metrics import (
    PERCENTILES,
    Score,
    cosines,
    difference,
    mean_with_interval,
    retrieval,
    score_dict,
)
from unprompt.evaluating.text_metrics import Words, measure_words
from unprompt.pairs.table import PairsTable
from unprompt.predicting.captioner_model import Caption
from unprompt.predicting.embedding_model import EmbeddingModel, embed_images
from unprompt.predicting.predictor import Predictor
from unprompt.progress import track

NEIGHBOURS = 10
# Most words of a prompt in each class of length; a CLIP text tower holds about 55 English words.
_LENGTHS = {"1 to 5": 5, "6 to 10": 10, "11 to 20": 20, "21 to 40": 40, "over 40": math.inf}


@dataclass(frozen=True)
class Result:
    """Scores of one predictor: over all pairs, and for parts of them.

    Attributes:
        name: the model, or the baseline.
        overall: mean cosine over all pairs.
        per_source: the same for the pairs of each source.
        per_length: the same for the pairs whose prompts have so many words.
        percentiles: the cosine that so many per cent of the pairs stay below.
        recall: share of pairs whose prompt is among the k nearest to the prediction, by k; see
            `unprompt.evaluating.metrics.retrieval`.
        values: cosine of each pair, float64 of shape (n,).
    """

    name: str
    overall: Score
    per_source: dict[str, Score]
    per_length: dict[str, Score]
    percentiles: dict[int, float]
    recall: dict[int, float]
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
        captions: what a captioner wrote; None for other models.
        failures: one line for each pair whose image could not be decoded; they count nowhere.
        images_per_second: from encoded files to embeddings.
        peak_memory: of the process so far (of the device, where the model runs on CUDA), in MB;
            None where the system does not tell.
        words: what the answers in words are worth, where they were measured.
    """

    table: str
    split: str | None
    model: Result
    baselines: list[Result]
    pairs: PairsTable = field(repr=False)
    predicted: np.ndarray = field(repr=False)
    true: np.ndarray = field(repr=False)
    captions: list[Caption] | None = field(repr=False)
    failures: list[str]
    images_per_second: float
    peak_memory: float | None
    words: Words | None = None

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each pair, shape (n,), where the table has groups."""
        return np.array(self.pairs.column("group")) if self.pairs.has("group") else None

    def better_than(self, other: Evaluation) -> Score:
        """How much higher this model's mean cosine is, by the paired bootstrap.

        Raises:
            TableError: the two were measured on different pairs.
        """
        if self.pairs.column("id") != other.pairs.column("id"):
            raise TableError(
                f"{self.table}: the two models were not measured on the same pairs; images that "
                "only one of them could decode, or other splits?"
            )
        return difference(self.model.values, other.model.values, self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pairs and the embeddings, ready for JSON."""
        return {
            "table": self.table,
            "split": self.split,
            "model": _result_dict(self.model),
            "baselines": [_result_dict(result) for result in self.baselines],
            "failures": self.failures,
            "images_per_second": round(self.images_per_second, 1),
            "peak_memory_mb": self.peak_memory,
            "words": self.words and self.words.to_dict(),
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


def reference_of(model: EmbeddingModel, train: PairsTable, batch_size: int = 32) -> Reference:
    """The baselines' knowledge, from the pairs of a training split.

    Raises:
        TableError: there are no pairs, or no image of them can be decoded.
    """
    known = _predict(model, train, batch_size, "Baselines")
    return Reference(_true_embeddings(train.take(known.rows), model.encoder), known.features)


def evaluate(
    model: EmbeddingModel,
    table: PairsTable,
    split: str | None = "test",
    reference: Reference | None = None,
    batch_size: int = 32,
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

    Raises:
        TableError: the split is not there, or no image of it can be decoded.
    """
    chosen = table.of_split(split) if split else table
    started = time.perf_counter()
    told = _predict(model, chosen, batch_size, "Evaluating")
    seconds = time.perf_counter() - started
    chosen = chosen.take(told.rows)
    true = _true_embeddings(chosen, model.encoder)
    guesses = _baselines(reference, told.features) if reference else ()
    return Evaluation(
        table=table.name,
        split=split,
        model=_result(model.name, told.embeddings, true, chosen),
        baselines=[_result(name, guess, true, chosen) for name, guess in guesses],
        pairs=chosen,
        predicted=told.embeddings,
        true=true,
        captions=told.captions,
        failures=told.failures,
        images_per_second=len(told.rows) / seconds,
        peak_memory=_peak_memory(),
    )


def with_words(evaluation: Evaluation, predictor: Predictor) -> Evaluation:
    """The same evaluation with its answers in words measured too.

    Args:
        evaluation: of the predictor's model.
        predictor: it words an embedder's answers; a captioner has written its own.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    if evaluation.captions is not None:
        texts, scores = [caption.text for caption in evaluation.captions], None
    else:
        answers = [predictor.answer(embedding) for embedding in evaluation.predicted]
        texts, scores = [str(a.prompt) for a in answers], [a.score for a in answers]
    words = measure_words(
        texts,
        evaluation.pairs.prompts,
        evaluation.true,
        predictor.model.encoder,
        scores,
        evaluation.groups,
    )
    return replace(evaluation, words=words)


@dataclass
class _Predictions:
    """What a model says of a table.

    Attributes:
        rows: those whose image could be decoded.
        embeddings: of these, float32 of shape (n, dim).
        features: likewise, of shape (n, width).
        captions: likewise, of a captioner.
        failures: a line for each row that could not be decoded.
    """

    rows: list[int]
    embeddings: np.ndarray
    features: np.ndarray
    captions: list[Caption] | None
    failures: list[str]


def _predict(model: EmbeddingModel, table: PairsTable, batch_size: int, what: str) -> _Predictions:
    at_least = model.preprocessing.least_side
    openers = (partial(table.open_image, row, at_least) for row in range(len(table)))
    outputs = track(embed_images(model, openers, batch_size), what, len(table))
    told = {}
    failures = []
    for row, output in enumerate(outputs):
        if isinstance(output, UnpromptError):
            failures.append(str(output))
        else:
            told[row] = output
    if not told:
        raise TableError(f"{table.name}: none of the {len(table)} images can be decoded")
    embeddings, features, *captions = zip(*told.values(), strict=True)
    return _Predictions(
        [*told],
        np.array(embeddings),
        np.array(features),
        list(captions[0]) if captions else None,
        failures,
    )


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
    prompts = pairs.prompts
    return Result(
        name,
        overall=mean_with_interval(values, groups),
        per_source=_by([s or "unknown" for s in pairs.column("source")], values, groups),
        per_length=_by([_length(prompt) for prompt in prompts], values, groups, [*_LENGTHS]),
        percentiles={
            percent: float(value)
            for percent, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
        },
        recall=retrieval(predicted, true, prompts),
        values=values,
    )


def _by(
    names: list[str],
    values: np.ndarray,
    groups: np.ndarray | None,
    order: Sequence[str] | None = None,
) -> dict[str, Score]:
    """Scores of the pairs of each name, in the order given, by default the alphabet's."""
    of = np.array(names, dtype=object)
    scores = {}
    for name in order or sorted(set(names)):
        rows = of == name
        if not rows.any():
            continue
        scores[name] = mean_with_interval(values[rows], None if groups is None else groups[rows])
    return scores


def _length(prompt: str) -> str:
    words = len(prompt.split())
    return next(name for name, most in _LENGTHS.items() if words <= most)


def _peak_memory() -> float | None:
    torch = sys.modules.get("torch")  # a model that runs without it is not to load it
    if torch is not None and torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _result_dict(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        **score_dict(result.overall),
        "percentiles": {str(k): round(value, 4) for k, value in result.percentiles.items()},
        "recall": {str(k): round(value, 4) for k, value in result.recall.items()},
        "per_source": {name: score_dict(value) for name, value in result.per_source.items()},
        "per_length": {name: score_dict(value) for name, value in result.per_length.items()},
    }
