"""What an answer is expected to be worth: from a sign of it to a cosine to the true prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 100
"""Prompts around a prediction, among which its answer is chosen; as many as an index proposes."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """From a sign of how good an answer is to its expected cosine to the truth.

    A curve that never falls, straight between its knots and level beyond them; fitted on held-out
    pairs for one model and what it answers with.

    Attributes:
        signs: of the knots, ascending: `csls` of a bank's prompts, the mean log probability of a
            decoder's texts.
        expected: cosines, one a knot.
        pairs: held-out pairs that it was fitted on.
        error: root mean square error of the estimate on those pairs.

    Raises:
        ValueError: the knots are no such curve.
    """

    signs: tuple[float, ...]
    expected: tuple[float, ...]
    pairs: int
    error: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "signs", tuple(self.signs))
        object.__setattr__(self, "expected", tuple(self.expected))
        if not self.signs or len(self.signs) != len(self.expected):
            raise ValueError("a calibration needs as many expected cosines as signs, one at least")
        if (np.diff(self.signs) <= 0).any() or (np.diff(self.expected) < 0).any():
            raise ValueError("a calibration's signs must ascend and its cosines not fall")

    def __str__(self) -> str:
        return (
            f"{self.expected[0]:.3f} to {self.expected[-1]:.3f}, ± {self.error:.3f} "
            f"(on {self.pairs} held-out pairs)"
        )

    def __call__(self, sign: float) -> float:
        """The expected cosine, in [-1, 1]."""
        return float(np.interp(sign, self.signs, self.expected))


def csls(predicted: np.ndarray, answers: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """How much an answer stands out: cross-domain similarity local scaling.

    A prediction that hedges lies amid many prompts and is near to all of them, and some prompts,
    hubs, are near to whatever is predicted. So the cosine of the two, taken twice, is held against
    how near each of them is to the prompts around the prediction (Conneau et al. 2018, arXiv
    1710.04087, section 2.3; there each end has a neighbourhood of its own).

    Args:
        predicted: embeddings, float (n, dim), norm 1.
        answers: those of the answers to each, (n, k, dim), norm 1.
        neighbours: those of the prompts of a bank that are nearest to each prediction, (n, m, dim),
            norm 1.

    Returns:
        Shape (n, k), in [-4, 4].
    """
    around = neighbours.mean(axis=1)
    near = np.einsum("nd,nd->n", predicted, around)
    found: np.ndarray = np.einsum("nkd,nd->nk", answers, 2 * predicted - around) - near[:, None]
    return found
