"""Measure a model on a pairs table, and compare it with simple baselines."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
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
    recall_at_k,
)
from unprompt.evaluating.text_metrics import TextScores, score_texts
from unprompt.pairs.table import PairsTable, as_table
from unprompt.predicting.captioner import Caption
from unprompt.predicting.embedding_model import EmbeddingModel
from unprompt.predicting.image_batches import embed_images
from unprompt.predicting.predictor import Predictor
from unprompt.progress import track

NEIGHBOURS = 10
# For each class of length, the most words in a prompt. CLIP's text tower holds about 55 words.
_LENGTHS = {"1 to 5": 5, "6 to 10": 10, "11 to 20": 20, "21 to 40": 40, "over 40": math.inf}


@dataclass(frozen=True)
class Result:
    """Scores of a model or a baseline, over all pairs and for subsets of them.

    Attributes:
        name: name of the model or the baseline.
        overall: mean cosine over all pairs.
        per_source: mean cosine of the pairs from each source.
        per_length: mean cosine of the pairs in each class of prompt length.
        percentiles: for each per cent, the percentile of the cosine.
        recall: for each k, the recall; see `unprompt.evaluating.metrics.recall_at_k`.
        values: cosine of each pair, float64 of shape (n,).
    """

    name: str
    overall: Score
    per_source: dict[str, Score]
    per_length: dict[str, Score]
    percentiles: dict[int, float]
    recall: dict[int, float]
    values: np.ndarray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values, ready for JSON."""
        return {
            "name": self.name,
            **self.overall.to_dict(),
            "percentiles": {str(k): round(value, 4) for k, value in self.percentiles.items()},
            "recall": {str(k): round(value, 4) for k, value in self.recall.items()},
            "per_source": {name: score.to_dict() for name, score in self.per_source.items()},
            "per_length": {name: score.to_dict() for name, score in self.per_length.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """The result of a model on a split, with time and memory.

    Attributes:
        table: name of the pairs table.
        split: name of the split, or None for the whole table.
        model: the model's result.
        baselines: results of the baselines on the same pairs.
        pairs: the pairs that were evaluated.
        predicted: the model's embeddings, float32 of shape (n, dim).
        true: embeddings of the true prompts, float32 of shape (n, dim).
        captions: the texts of a captioner; None for other models.
        failures: one line for each pair whose image could not be decoded. No score counts them.
        images_per_second: speed, from encoded files to embeddings.
        peak_memory: peak memory in MB, of the process so far, or of the device if the model runs on
            CUDA; None if the system does not state it.
        text_scores: scores of the answers as texts; None if they were not measured.
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
    text_scores: TextScores | None = None

    @property
    def title(self) -> str:
        """Names of model, table and split."""
        return f"{self.model.name} on {self.table} ({self.split or 'all pairs'})"

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each pair, shape (n,), or None if the table has no groups."""
        return _groups(self.pairs)

    def check_same_pairs(self, other: Evaluation) -> None:
        """Check that two models were evaluated on the same pairs.

        Raises:
            TableError: the pairs differ.
        """
        if self.pairs.column("id") != other.pairs.column("id"):
            raise TableError(
                f"{self.table}: {self.model.name} and {other.model.name} were not measured on the "
                "same pairs; measure both on one split, with images that both can decode"
            )

    def better_than(self, other: Evaluation) -> Score:
        """How much higher this model's mean cosine is, by the paired bootstrap.

        Raises:
            TableError: the two were measured on different pairs.
        """
        self.check_same_pairs(other)
        return difference(self.model.values, other.model.values, self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pairs and the embeddings, ready for JSON."""
        return {
            "table": self.table,
            "split": self.split,
            "model": self.model.to_dict(),
            "baselines": [result.to_dict() for result in self.baselines],
            "failures": self.failures,
            "images_per_second": round(self.images_per_second, 1),
            "peak_memory_mb": self.peak_memory,
            "text_scores": self.text_scores and self.text_scores.to_dict(),
        }


@dataclass(frozen=True)
class Reference:
    """The training split, from which the baselines predict.

    Attributes:
        embeddings: prompt embeddings, float32 of shape (n, dim).
        features: backbone features of the evaluated model, float32 of shape (n, width).
    """

    embeddings: np.ndarray = field(repr=False)
    features: np.ndarray = field(repr=False)


def reference_of(model: EmbeddingModel, train: PairsTable, batch_size: int = 16) -> Reference:
    """Embeddings and features of a training split, for the baselines.

    Raises:
        TableError: there are no pairs, or none of their images can be decoded.
    """
    predictions = _predict(model, train, batch_size, "Baselines")
    embeddings = _true_embeddings(train.take(predictions.rows), model.encoder)
    return Reference(embeddings, predictions.features)


def evaluate(
    model: EmbeddingModel | Predictor | str | Path,
    table: PairsTable | str | Path,
    split: str | None = "test",
    reference: Reference | None = None,
    batch_size: int = 16,
    *,
    baselines: bool = False,
    text_scores: bool = False,
    device: str | None = None,
) -> Evaluation:
    """Measure the mean cosine between predicted and true prompt embeddings.

    Args:
        model: ``builtin``, a model's folder or hub id, a loaded model, or a `Predictor`.
        table: pairs with splits, or the path of their table. Missing prompt embeddings are
            computed.
        split: split to measure on; None for the whole table.
        reference: the training split, for three baselines on the same pairs: its mean embedding,
            the prompt of a random pair, and the mean embedding of the ten pairs with the nearest
            backbone features (by cosine). Without a reference there are no baselines.
        batch_size: images in a batch.
        baselines: take the table's split ``train`` as ``reference``.
        text_scores: also measure the answers as texts. ``model`` must then be a name or a
            `Predictor`.
        device: device of a model that is given by name and runs on torch.

    Raises:
        ModelNotFoundError: the model does not exist.
        TableError: the split does not exist, or none of its images can be decoded.
        MissingExtraError: ``text_scores`` is true and sacrebleu is not installed.
        UnpromptError: ``text_scores`` is true and ``model`` is a loaded model.
    """
    predictor = None
    if isinstance(model, str | Path):
        model = Predictor(model, device=device)
    if isinstance(model, Predictor):
        predictor, model = model, model.model
    elif text_scores:
        raise UnpromptError("to measure texts, give evaluate() a model's name or a Predictor")
    table = as_table(table)
    if baselines and reference is None:
        reference = reference_of(model, table.of_split("train"), batch_size)
    pairs = table.of_split(split) if split else table
    started = time.perf_counter()
    predictions = _predict(model, pairs, batch_size, "Evaluating")
    seconds = time.perf_counter() - started
    pairs = pairs.take(predictions.rows)
    true = _true_embeddings(pairs, model.encoder)
    simple = _baselines(reference, predictions.features) if reference else ()
    evaluation = Evaluation(
        table=table.name,
        split=split,
        model=_result(model.name, predictions.embeddings, true, pairs),
        baselines=[_result(name, embeddings, true, pairs) for name, embeddings in simple],
        pairs=pairs,
        predicted=predictions.embeddings,
        true=true,
        captions=predictions.captions,
        failures=predictions.failures,
        images_per_second=len(predictions.rows) / seconds,
        peak_memory=_peak_memory(),
    )
    if predictor is not None and text_scores:
        return with_text_scores(evaluation, predictor)
    return evaluation


def with_text_scores(evaluation: Evaluation, predictor: Predictor) -> Evaluation:
    """Add the scores of the answers as texts to an evaluation.

    Args:
        evaluation: evaluation of the predictor's model.
        predictor: turns predicted embeddings into texts; the texts of a captioner are already in
            the evaluation.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    if evaluation.captions is not None:
        texts, estimates = [caption.text for caption in evaluation.captions], None
    else:
        answers = [predictor.answer(embedding) for embedding in evaluation.predicted]
        texts, estimates = [str(a.prompt) for a in answers], [a.score for a in answers]
    scores = score_texts(
        texts,
        evaluation.pairs.prompts,
        evaluation.true,
        predictor.model.encoder,
        estimates,
        evaluation.groups,
    )
    return replace(evaluation, text_scores=scores)


@dataclass
class _Predictions:
    """Predictions of a model for a table.

    Attributes:
        rows: the n rows whose images could be decoded.
        embeddings: float32 of shape (n, dim).
        features: float32 of shape (n, width).
        captions: n captions; None if the model is not a captioner.
        failures: one line for each row whose image could not be decoded.
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
    predicted = {}
    failures = []
    for row, output in enumerate(outputs):
        if isinstance(output, UnpromptError):
            failures.append(str(output))
        else:
            predicted[row] = output
    if not predicted:
        raise TableError(f"{table.name}: none of the {len(table)} images can be decoded")
    embeddings, features, *captions = zip(*predicted.values(), strict=True)
    return _Predictions(
        [*predicted],
        np.array(embeddings),
        np.array(features),
        list(captions[0]) if captions else None,
        failures,
    )


def _true_embeddings(table: PairsTable, encoder: str) -> np.ndarray:
    if table.has("embedding"):
        return table.embeddings
    return encode(table.prompts, encoder, precision="fp32")


def _groups(pairs: PairsTable) -> np.ndarray | None:
    return np.array(pairs.column("group")) if pairs.has("group") else None


def _baselines(reference: Reference, features: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    train, count = reference.embeddings, len(features)
    yield "mean training embedding", np.tile(train.mean(axis=0), (count, 1))
    sampled = np.random.default_rng(0).integers(len(train), size=count)
    yield "random training prompt", train[sampled]
    k = min(NEIGHBOURS, len(train))
    known = reference.features / np.linalg.norm(reference.features, axis=1, keepdims=True)
    means = np.empty((count, train.shape[1]), dtype=np.float32)
    for start in range(0, count, 1024):
        similarity = features[start : start + 1024] @ known.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        means[start : start + 1024] = train[nearest].mean(axis=1)
    yield f"kNN over backbone features (k = {k})", means


def _result(name: str, predicted: np.ndarray, true: np.ndarray, pairs: PairsTable) -> Result:
    values = cosines(predicted, true)
    groups, prompts = _groups(pairs), pairs.prompts
    sources = [source or "unknown" for source in pairs.column("source")]
    lengths = [_length_class(prompt) for prompt in prompts]
    return Result(
        name,
        overall=mean_with_interval(values, groups),
        per_source=_scores_by_label(sources, sorted(set(sources)), values, groups),
        per_length=_scores_by_label(lengths, _LENGTHS, values, groups),
        percentiles={
            percent: float(value)
            for percent, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
        },
        recall=recall_at_k(predicted, true, prompts),
        values=values,
    )


def _scores_by_label(
    labels: Sequence[str], order: Iterable[str], values: np.ndarray, groups: np.ndarray | None
) -> dict[str, Score]:
    """The score of each label's pairs, in the given order of labels; unused labels are left out."""
    label_of_row = np.array(labels, dtype=object)
    return {
        label: mean_with_interval(values[rows], None if groups is None else groups[rows])
        for label in order
        if (rows := label_of_row == label).any()
    }


def _length_class(prompt: str) -> str:
    words = len(prompt.split())
    return next(name for name, most in _LENGTHS.items() if words <= most)


def _peak_memory() -> float | None:
    torch = sys.modules.get("torch")  # a model that runs without torch must not load it
    if torch is not None and torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
