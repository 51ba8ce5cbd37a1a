"""Metrics of answers as texts: cosine to the true prompt, exact matches, BLEU, chrF, diversity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unprompt.collecting.prompts.diversity import distinct_ngrams
from unprompt.encoding import encode
from unprompt.errors import need
from unprompt.evaluating.metrics import Bin, Score, cosines, mean_with_interval, reliability


@dataclass(frozen=True)
class TextScores:
    """Scores of answers as texts, compared with the true prompts.

    Attributes:
        texts: the answers.
        cosine: mean cosine between the embeddings of answer and true prompt.
        values: the cosine of each pair, float64 of shape (n,).
        exact: share of answers that equal the true prompt, in [0, 1].
        bleu: corpus BLEU with sacrebleu's defaults, in [0, 100] (Post 2018, arXiv 1804.08771).
        chrf: corpus chrF2, in [0, 100] (Popović 2015).
        distinct: shares of distinct words, of distinct pairs and of distinct triples of words in
            all answers. They are low if the answers repeat each other.
        reliability: estimated and actual scores in bins; None without estimates.
    """

    texts: list[str] = field(repr=False)
    cosine: Score
    values: np.ndarray = field(repr=False)
    exact: float
    bleu: float
    chrf: float
    distinct: tuple[float, float, float]
    reliability: list[Bin] | None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the texts and the values, ready for JSON."""
        return {
            **self.cosine.to_dict(),
            "exact": round(self.exact, 4),
            "bleu": round(self.bleu, 2),
            "chrf": round(self.chrf, 2),
            "distinct": [round(share, 4) for share in self.distinct],
            "reliability": self.reliability
            and [
                {
                    "estimated": round(one.estimated, 4),
                    "actual": round(one.actual, 4),
                    "pairs": one.count,
                }
                for one in self.reliability
            ],
        }


def score_texts(
    texts: Sequence[str],
    prompts: Sequence[str],
    true: np.ndarray,
    encoder: str,
    estimates: Sequence[float | None] | None = None,
    groups: np.ndarray | None = None,
) -> TextScores:
    """Compare answers with the true prompts.

    Args:
        texts: the n answers, n > 0.
        prompts: the true prompts.
        true: embeddings of the true prompts, float32 of shape (n, dim).
        encoder: the target encoder, which encodes the answers.
        estimates: for each answer, the model's estimate of its cosine to the true prompt.
        groups: group of each pair, shape (n,), for the interval.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    need("train", "sacrebleu")
    from sacrebleu import corpus_bleu, corpus_chrf

    values = cosines(encode(list(texts), encoder, precision="fp32"), true)
    estimated = None
    if estimates is not None and all(estimate is not None for estimate in estimates):
        estimated = np.array(estimates, dtype=np.float64)
    return TextScores(
        texts=list(texts),
        cosine=mean_with_interval(values, groups),
        values=values,
        exact=sum(map(str.__eq__, texts, prompts)) / len(texts),
        bleu=corpus_bleu(list(texts), [list(prompts)]).score,
        chrf=corpus_chrf(list(texts), [list(prompts)]).score,
        distinct=distinct_ngrams(texts),
        reliability=None if estimated is None else reliability(estimated, values),
    )
