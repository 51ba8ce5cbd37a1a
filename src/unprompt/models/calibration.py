"""Calibration: estimate the cosine between an answer and the true prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 100
"""Number of bank prompts around a prediction from which the answer is chosen; an index proposes as
many."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve from a calibration input to the expected cosine to the true prompt.

    The curve never falls. It is straight between its knots and level beyond them. It is fitted on
    held-out pairs, for one model and either its bank or its decoder.

    Attributes:
        inputs: calibration inputs of the knots, ascending: the `csls` of a bank's prompts, or the
            mean log probability of a decoder's texts.
        expected: expected cosine of each knot.
        pairs: number of held-out pairs that the curve was fitted on.
        error: root mean square error of the estimate on those pairs.

    Raises:
        ValueError: the inputs do not ascend, the cosines fall, or their counts differ.
    """

    inputs: tuple[float, ...]
    expected: tuple[float, ...]
    pairs: int
    error: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "expected", tuple(self.expected))
        if not self.inputs or len(self.inputs) != len(self.expected):
            raise ValueError("a calibration needs one expected cosine for each input")
        if (np.diff(self.inputs) <= 0).any() or (np.diff(self.expected) < 0).any():
            raise ValueError("a calibration's inputs must ascend and its cosines must not fall")

    def __str__(self) -> str:
        return (
            f"{self.expected[0]:.3f} to {self.expected[-1]:.3f}, ± {self.error:.3f} "
            f"(on {self.pairs} held-out pairs)"
        )

    def __call__(self, value: float) -> float:
        """The expected cosine, in [-1, 1], of an answer with this calibration input."""
        return float(np.interp(value, self.inputs, self.expected))


def csls(predicted: np.ndarray, answers: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Cross-domain similarity local scaling: how much an answer stands out among its neighbours.

    An uncertain prediction is near many prompts, and some prompts (hubs) are near many predictions.
    CSLS is twice the cosine of prediction and answer, minus the mean cosine of the prediction to
    the prompts around the prediction, minus that of the answer (Conneau et al. 2018, arXiv
    1710.04087, section 2.3; there prediction and answer have separate neighbourhoods).

    Args:
        predicted: embeddings, float (n, dim), norm 1.
        answers: embeddings of the answers to each prediction, (n, k, dim), norm 1.
        neighbours: embeddings of the bank prompts nearest to each prediction, (n, m, dim), norm 1.

    Returns:
        Shape (n, k), in [-4, 4].
    """
    around = neighbours.mean(axis=1)
    near = np.einsum("nd,nd->n", predicted, around)
    scores: np.ndarray = np.einsum("nkd,nd->nk", answers, 2 * predicted - around) - near[:, None]
    return scores
