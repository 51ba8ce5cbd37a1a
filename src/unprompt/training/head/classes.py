"""A ``classes`` head before fine-tuning: what its classes are called, and the rest in closed form.

The rest is a ridge regression in which every source of pairs counts alike, however many it has, and
within a source every prompt. How strong its penalty is, and how much the classes and the prior
prompt weigh beside it, is chosen by leaving out one source after the other: what is judged is how
the head does on pictures of a kind that it has not seen, with prompts of a kind that it has not
read, since those are the ones it will meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import nn

from unprompt.encoding import encode
from unprompt.errors import UnpromptError
from unprompt.models.bank.bank import unit
from unprompt.models.heads import ClassesHead
from unprompt.training.head.memory import fit_memory

PENALTIES = (1.0, 3.0, 10.0, 30.0)
"""Ridge penalties that are tried, as multiples of the features' mean variance."""
CONTENT_GAINS = (0.0, 0.5, 0.7, 1.0)
"""Weights of the classes that are tried."""
PRIOR_GAINS = (0.0, 0.5, 1.0, 1.5)
"""Weights of the prior that are tried."""
_NEIGHBOURS = 30


@dataclass(frozen=True)
class HeadData:
    """What a ``classes`` head learns from, row by row.

    Attributes:
        features: of the backbone, shape (n, width).
        content: the classes' names weighed by their probabilities, shape (n, dim).
        targets: unit-norm prompt embeddings, shape (n, dim).
        sources: where each pair comes from.
        prompts: of each pair.
        prior: embedding of the prior, shape (dim,).
    """

    features: np.ndarray
    content: np.ndarray
    targets: np.ndarray
    sources: Sequence[str]
    prompts: Sequence[str]
    prior: np.ndarray


@dataclass(frozen=True)
class ClassesFit:
    """A fitted head: ``content_gain * content + features @ weight.T + bias``.

    Attributes:
        weight: shape (dim, width).
        bias: shape (dim,); the prior is in it.
        content_gain: what the names are to be multiplied by.
        prior_gain: how much of the prior is in the bias.
        penalty: of the ridge regression.
        score: mean over the sources of the mean cosine on each while it was left out.
    """

    weight: np.ndarray
    bias: np.ndarray
    content_gain: float
    prior_gain: float
    penalty: float
    score: float

    def __call__(self, features: np.ndarray, content: np.ndarray) -> np.ndarray:
        """Embeddings of any norm for more rows."""
        predicted: np.ndarray = self.content_gain * content + features @ self.weight.T + self.bias
        return predicted


def set_classes(
    head: ClassesHead, classifier: nn.Linear, encoder: str, prompts: Sequence[str] = ()
) -> None:
    """Tell a head its classes and the prior; it then predicts without having learned.

    Args:
        head: whose weights are set.
        classifier: from features to the classes' logits.
        encoder: the target encoder.
        prompts: texts that people wrote; the mean of their embeddings is the prior, which
            becomes the bias, and the classes' embeddings move towards theirs.

    Raises:
        UnpromptError: the classifier tells other classes apart than the head.
    """
    if classifier.out_features != head.classifier.out_features:
        raise UnpromptError(
            f"the classifier knows {classifier.out_features} classes and the head "
            f"{head.classifier.out_features}; take a backbone of ImageNet-1k"
        )
    prior = np.zeros(head.names.out_features, dtype=np.float32)
    written = encode(list(prompts), encoder) if prompts else None
    if written is not None:
        prior = written.mean(axis=0)
    names = name_embeddings(class_names(classifier.out_features), encoder, written)
    with torch.no_grad():
        head.classifier.load_state_dict(classifier.state_dict())
        head.names.weight.copy_(torch.from_numpy(names.T))
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.from_numpy(prior))


def fit_classes_head(
    head: ClassesHead,
    features: np.ndarray,
    targets: np.ndarray,
    sources: Sequence[str],
    prompts: Sequence[str],
) -> ClassesFit:
    """Fit a head that was told its classes; see `fit_classes`.

    Args:
        head: whose weights are set.
        features: of the backbone, float32 of shape (n, width).
        targets: unit-norm prompt embeddings, float32 of shape (n, dim).
        sources: where each pair comes from.
        prompts: of each pair.

    Raises:
        UnpromptError: all pairs are of one source.
    """
    with torch.no_grad():
        content = head.content(torch.from_numpy(features)).numpy()
    prior = head.linear.bias.detach().numpy().copy()
    fit = fit_classes(HeadData(features, content, targets, sources, prompts, prior))
    with torch.no_grad():
        head.names.weight.mul_(fit.content_gain)
        head.linear.weight.copy_(torch.from_numpy(fit.weight))
        head.linear.bias.copy_(torch.from_numpy(fit.bias))
    if head.memory is not None:
        general = unit(fit(features, content))
        scale = (general * targets).sum(axis=1).mean()
        # The prediction whose square error is least is this much of the general one.
        fit_memory(head.memory, features, targets / scale - general, sources)
    return fit


def class_names(count: int) -> list[str]:
    """What each class of an ImageNet classifier is called, as ``great white shark``.

    The first lemma of WordNet, as timm's ``ImageNetInfo`` lists them.

    Args:
        count: of classes; which ImageNet it is follows from it (1,000, 11,221, 21,841, ...).

    Raises:
        UnpromptError: no ImageNet has so many classes.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        raise UnpromptError(
            f"no ImageNet has {count} classes, so what they are called is not known; take "
            "model.head.type=linear"
        )
    info = ImageNetInfo(subset)
    return [info.index_to_description(place).split(",")[0] for place in range(count)]


def name_embeddings(
    names: Sequence[str], encoder: str, prompts: np.ndarray | None = None
) -> np.ndarray:
    """Prompt embeddings of classes, without what all of them share.

    Each is the embedding of ``a photo of NAME`` and, where prompts are given, the mean of the 30
    that come nearest to it, in equal data: how people ask for such a thing.

    Args:
        names: of the classes.
        encoder: the target encoder.
        prompts: embeddings of prompts that people wrote, shape (n, dim).

    Returns:
        Shape (classes, dim), of mean zero and mean norm 1.
    """
    named = encode([f"a photo of {name}" for name in names], encoder, precision="fp32")
    said = _centred(named)
    if prompts is not None:
        cosine = named @ prompts.T
        count = min(_NEIGHBOURS, len(prompts))
        nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        said = _centred(said + _centred(np.stack([prompts[rows].mean(axis=0) for rows in nearest])))
    return said


def _centred(rows: np.ndarray) -> np.ndarray:
    away = rows - rows.mean(axis=0)
    scaled: np.ndarray = away / np.linalg.norm(away, axis=1).mean()
    return scaled


def fit_classes(data: HeadData) -> ClassesFit:
    """Fit the linear part of a head, and choose penalty and gains by leaving sources out.

    Raises:
        UnpromptError: all pairs are of one source, so that none can be left out.
    """
    sources = sorted(set(data.sources))
    if len(sources) < 2:
        raise UnpromptError(
            f"every pair is of the source '{sources[0]}'; a classes head is fitted by leaving out "
            "one source after the other: add pairs of another, or take model.head.type=linear"
        )
    moments = {source: _moments(data, source) for source in sources}
    scores = dict.fromkeys(product(PENALTIES, CONTENT_GAINS, PRIOR_GAINS), 0.0)
    for source in sources:
        others = [moments[other] for other in sources if other != source]
        rows = moments[source].rows
        prior = np.broadcast_to(data.prior, (len(rows), len(data.prior)))
        for penalty, (weight, bias) in zip(PENALTIES, _ridges(others, PENALTIES), strict=True):
            linear = data.features[rows] @ weight.T + bias
            cosine = _CosineOfSums([linear, data.content[rows], prior], data.targets[rows])
            for gains in product(CONTENT_GAINS, PRIOR_GAINS):
                scores[(penalty, *gains)] += cosine(1.0, *gains) / len(sources)
    best = max(scores, key=scores.__getitem__)
    penalty, content_gain, prior_gain = best
    [(weight, bias)] = _ridges(list(moments.values()), [penalty])
    bias = bias + prior_gain * data.prior
    return ClassesFit(weight, bias, content_gain, prior_gain, penalty, scores[best])


class _CosineOfSums:
    """Mean cosine to targets of weighted sums of the same terms, from their inner products."""

    def __init__(self, terms: list[np.ndarray], targets: np.ndarray):
        self._inner = np.array([[(one * other).sum(axis=1) for one in terms] for other in terms])
        self._along = np.array([(term * targets).sum(axis=1) for term in terms])

    def __call__(self, *weights: float) -> float:
        norms = np.sqrt(np.einsum("i,ijn,j->n", weights, self._inner, weights))
        return float((weights @ self._along / norms).mean())


@dataclass(frozen=True)
class _Moments:
    """Means and second moments of one source, its prompts counting alike."""

    rows: np.ndarray
    features: np.ndarray
    targets: np.ndarray
    inner: np.ndarray
    cross: np.ndarray


def _moments(data: HeadData, source: str) -> _Moments:
    rows = np.flatnonzero(np.array(data.sources) == source)
    prompts = np.array(data.prompts, dtype=object)[rows]
    _, which, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    shares = 1 / (counts[which] * len(counts))
    features = data.features[rows].astype(np.float64)
    targets = data.targets[rows].astype(np.float64)
    weighted = features * shares[:, None]
    return _Moments(
        rows, shares @ features, shares @ targets, weighted.T @ features, weighted.T @ targets
    )


def _ridges(
    moments: list[_Moments], penalties: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weight (dim, width) and bias (dim,) for each penalty, on standardised features."""
    features = np.mean([m.features for m in moments], axis=0)
    targets = np.mean([m.targets for m in moments], axis=0)
    inner = np.mean([m.inner for m in moments], axis=0) - np.outer(features, features)
    cross = np.mean([m.cross for m in moments], axis=0) - np.outer(features, targets)
    deviation = np.sqrt(np.diag(inner).clip(min=0)) + 1e-6
    inner /= np.outer(deviation, deviation)
    cross /= deviation[:, None]
    variance = np.trace(inner) / len(inner)
    for penalty in penalties:
        penalised = inner + penalty * variance * np.eye(len(inner))
        weight = np.linalg.solve(penalised, cross).T / deviation
        yield weight, targets - weight @ features
