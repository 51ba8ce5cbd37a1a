"""Fits a ``classes`` head in closed form: embeddings of the class names, a prior, and a ridge.

In the ridge regression every source of pairs counts alike, however many pairs it has, and within a
source every prompt. Its penalty, and the gains of the class names and the prior, are those that
score best on sources left out one after the other, because the head will meet images and prompts
unlike those of the training pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from unprompt.training.head.ridge import HeadWeights, Moments, mixed, ridges

PENALTIES = (1.0, 3.0, 10.0, 30.0)
"""Ridge penalties that are tried, as multiples of the features' mean variance."""
CONTENT_GAINS = (0.0, 0.5, 0.7, 1.0)
"""Gains of the class names that are tried."""
PRIOR_GAINS = (0.0, 0.5, 1.0, 1.5)
"""Gains of the prior that are tried."""
_NEIGHBOURS = 30


@dataclass(frozen=True)
class HeadData:
    """The rows that a ``classes`` head is fitted to.

    Attributes:
        features: of the backbone, shape (n, width).
        content: embeddings of the class names, weighted by their probabilities, shape (n, dim).
        targets: unit-norm prompt embeddings, shape (n, dim).
        sources: source of each pair.
        prompts: prompt of each pair.
        prior: embedding that is predicted before anything is known of the image, shape (dim,).
    """

    features: np.ndarray
    content: np.ndarray
    targets: np.ndarray
    sources: Sequence[str]
    prompts: Sequence[str]
    prior: np.ndarray


@dataclass(frozen=True)
class ClassesFit:
    """A fitted head: ``content_gain * content + weights(features)``.

    Attributes:
        weights: of the linear map; its bias contains the prior.
        content_gain: factor of the embeddings of the class names.
        prior_gain: factor of the prior in the bias.
        penalty: of the ridge regression.
        score: mean over the sources of the mean cosine on each while it was left out.
    """

    weights: HeadWeights
    content_gain: float
    prior_gain: float
    penalty: float
    score: float

    def __call__(self, features: np.ndarray, content: np.ndarray) -> np.ndarray:
        """Embeddings of any norm for other rows."""
        predicted: np.ndarray = self.content_gain * content + self.weights(features)
        return predicted


def set_classes(
    head: ClassesHead, classifier: nn.Linear, encoder: str, prompts: Sequence[str] = ()
) -> None:
    """Set the classes and the prior of a head, which then predicts without having been fitted.

    Args:
        head: its weights are set.
        classifier: from features to the classes' logits.
        encoder: the target encoder.
        prompts: texts that people wrote. The mean of their embeddings is the prior, which becomes
            the bias, and the embeddings of the class names move towards them.

    Raises:
        UnpromptError: the classifier has another number of classes than the head.
    """
    count = classifier.out_features
    if count != head.classifier.out_features:
        raise UnpromptError(
            f"the classifier has {count} classes and the head {head.classifier.out_features}; take "
            "a backbone that was pretrained on ImageNet-1k"
        )
    written = encode(list(prompts), encoder) if prompts else None
    names = name_embeddings(class_names(count), encoder, written)
    with torch.no_grad():
        head.classifier.load_state_dict(classifier.state_dict())
        head.names.weight.copy_(torch.from_numpy(names.T))
        head.linear.weight.zero_()
        head.linear.bias.zero_()
        if written is not None:
            head.linear.bias.copy_(torch.from_numpy(written.mean(axis=0)))


def fit_classes_head(
    head: ClassesHead,
    features: np.ndarray,
    targets: np.ndarray,
    sources: Sequence[str],
    prompts: Sequence[str],
) -> ClassesFit:
    """Fit a head after `set_classes`; see `fit_classes`.

    Args:
        head: its weights are set.
        features: of the backbone, float32 of shape (n, width).
        targets: unit-norm prompt embeddings, float32 of shape (n, dim).
        sources: source of each pair.
        prompts: prompt of each pair.

    Raises:
        UnpromptError: all pairs are of one source.
    """
    with torch.no_grad():
        content = head.content(torch.from_numpy(features)).numpy()
    prior = head.linear.bias.detach().numpy().copy()
    fit = fit_classes(HeadData(features, content, targets, sources, prompts, prior))
    fit.weights.copy_to(head.linear)
    with torch.no_grad():
        head.names.weight.mul_(fit.content_gain)
    if head.memory is not None:
        general = unit(fit(features, content))
        scale = (general * targets).sum(axis=1).mean()
        # The prediction with the least square error is the general one times this scale.
        fit_memory(head.memory, features, targets / scale - general, sources)
    return fit


def class_names(count: int) -> list[str]:
    """Names of the classes of an ImageNet classifier, as ``great white shark``.

    Each is the first lemma of its WordNet synset, as timm's ``ImageNetInfo`` lists them.

    Args:
        count: number of classes, which tells the ImageNet (1,000, 11,221, 21,841, ...).

    Raises:
        UnpromptError: no ImageNet has so many classes.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        raise UnpromptError(
            f"no ImageNet has {count} classes, so their names are not known; take "
            "model.head.type=linear"
        )
    info = ImageNetInfo(subset)
    return [info.index_to_description(place).split(",")[0] for place in range(count)]


def name_embeddings(
    names: Sequence[str], encoder: str, prompts: np.ndarray | None = None
) -> np.ndarray:
    """Prompt embeddings of class names, without what all of them share.

    Each is the embedding of ``a photo of NAME``. Where prompts are given, the mean of the 30
    prompts nearest to it is added in equal parts: how people ask for such a thing.

    Args:
        names: of the classes.
        encoder: the target encoder.
        prompts: embeddings of prompts that people wrote, shape (n, dim).

    Returns:
        Shape (classes, dim), of mean zero and mean norm 1.
    """
    named = encode([f"a photo of {name}" for name in names], encoder, precision="fp32")
    embeddings = _centred(named)
    if prompts is None:
        return embeddings
    count = min(_NEIGHBOURS, len(prompts))
    nearest = np.argpartition(-named @ prompts.T, count - 1, axis=1)[:, :count]
    around = np.stack([prompts[rows].mean(axis=0) for rows in nearest])
    return _centred(embeddings + _centred(around))


def _centred(rows: np.ndarray) -> np.ndarray:
    away = rows - rows.mean(axis=0)
    scaled: np.ndarray = away / np.linalg.norm(away, axis=1).mean()
    return scaled


def fit_classes(data: HeadData) -> ClassesFit:
    """Fit the linear map of a head, and choose penalty and gains by leaving sources out.

    Raises:
        UnpromptError: all pairs are of one source, so that none can be left out.
    """
    sources = sorted(set(data.sources))
    if len(sources) < 2:
        raise UnpromptError(
            f"every pair is of the source '{sources[0]}'; a classes head is fitted by leaving out "
            "one source after the other: add pairs of another, or take model.head.type=linear"
        )
    rows_of = {source: np.flatnonzero(np.array(data.sources) == source) for source in sources}
    moments = {source: _moments(data, rows) for source, rows in rows_of.items()}
    scores = dict.fromkeys(product(PENALTIES, CONTENT_GAINS, PRIOR_GAINS), 0.0)
    for source, rows in rows_of.items():
        others = mixed([moments[other] for other in sources if other != source])
        prior = np.broadcast_to(data.prior, (len(rows), len(data.prior)))
        for penalty, linear in zip(PENALTIES, ridges(others, PENALTIES), strict=True):
            terms = [linear(data.features[rows]), data.content[rows], prior]
            cosine = _CosineOfSums(terms, data.targets[rows])
            for gains in product(CONTENT_GAINS, PRIOR_GAINS):
                scores[(penalty, *gains)] += cosine(1.0, *gains) / len(sources)
    best = max(scores, key=scores.__getitem__)
    penalty, content_gain, prior_gain = best
    [linear] = ridges(mixed(list(moments.values())), [penalty])
    weights = HeadWeights(linear.weight, linear.bias + prior_gain * data.prior)
    return ClassesFit(weights, content_gain, prior_gain, penalty, scores[best])


def _moments(data: HeadData, rows: np.ndarray) -> Moments:
    """Of one source, where each prompt counts alike."""
    prompts = np.array(data.prompts, dtype=object)[rows]
    _, which, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    shares = 1 / (counts[which] * len(counts))
    return Moments.of(data.features[rows], data.targets[rows], shares)


class _CosineOfSums:
    """Mean cosine to targets of weighted sums of the same terms, from their inner products."""

    def __init__(self, terms: list[np.ndarray], targets: np.ndarray):
        self._inner = np.array([[(one * other).sum(axis=1) for one in terms] for other in terms])
        self._along = np.array([(term * targets).sum(axis=1) for term in terms])

    def __call__(self, *weights: float) -> float:
        norms = np.sqrt(np.einsum("i,ijn,j->n", weights, self._inner, weights))
        return float((weights @ self._along / norms).mean())
