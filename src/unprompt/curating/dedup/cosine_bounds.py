"""Upper bounds of cosines from products of short int8 vectors.

A unit vector x is rotated to the principal axes of the data and divided: x₁ holds the first few
coordinates, x₂ the rest. By Cauchy–Schwarz ⟨x, y⟩ ≤ ⟨x₁, y₁⟩ + ‖x₂‖‖y₂‖. The right side is the
product of the short unit vectors z = (x₁, ‖x₂‖) of both. A second rotation gives the coordinates of
z similar sizes, so that rounding to int8 costs little: z = step·code + e, and
⟨z, z'⟩ ≤ step²⟨code, code'⟩ + ‖e‖ + ‖e'‖ + ‖e‖‖e'‖. Products of int8 are exact and fast. With 64 of
384 dimensions and a cosine of 0.9, 1 of 2,000 pairs of real prompts remains a candidate.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

WIDTHS = (32, 64, 96, 128, 192, 256)
"""Lengths of the short vectors that `choose_width` tries; multiples of 8 suit every device."""

_SAMPLE = 8192
_CHUNK = 8192
_CODE_ERROR = 0.014
"""Typical ‖e‖ at any width, measured on prompts. It affects only the speed."""
_NS_PER_PRODUCT = 0.0038
_NS_PER_SCORE = 0.15
_NS_PER_CANDIDATE = 400.0


@dataclass(frozen=True)
class Codes:
    """Short integer vectors of unit vectors.

    Attributes:
        values: int8 of shape (n, width).
        step: the length of one unit of ``values``.
        error: length of each vector's rounding error, float64 of shape (n,).
    """

    values: np.ndarray
    step: float
    error: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


def leading_axes(vectors: np.ndarray) -> np.ndarray:
    """All principal axes (about the origin), strongest first: float64 of shape (dim, dim)."""
    sample = vectors[:: -(-len(vectors) // _SAMPLE)].astype(np.float64)
    products = sample.T @ sample
    with _one_blas_thread():
        axes = np.linalg.eigh(products)[1]
    return np.ascontiguousarray(axes[:, ::-1])


def _one_blas_thread() -> AbstractContextManager[object]:
    """Limit BLAS to one thread where threadpoolctl (extra ``data``) is installed.

    Two threads of OpenBLAS wait for each other at every step: on a busy core they take 2.4 s, one
    thread takes 0.015 s.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    limits: AbstractContextManager[object] = threadpool_limits(1, "blas")
    return limits


def choose_width(left: np.ndarray, right: np.ndarray, axes: np.ndarray, threshold: float) -> int:
    """The length of short vectors with the fastest search, estimated on a sample of pairs.

    Longer vectors take longer to multiply but leave fewer candidates.
    """
    dim = len(axes)
    widths = [*(width for width in WIDTHS if width < dim), dim]
    rows = left[:: max(1, len(left) // 512)] @ axes.astype(np.float32)
    columns = right[:: max(1, len(right) // 2048)] @ axes.astype(np.float32)
    least = np.float32(threshold - 2 * _CODE_ERROR)
    costs = []
    for width in widths:
        share = float((_bounds(rows, columns, width) >= least).mean())
        costs.append(_NS_PER_SCORE + _NS_PER_PRODUCT * width + _NS_PER_CANDIDATE * share)
    return widths[int(np.argmin(costs))]


def _bounds(rows: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
    keep = width - 1 if width < rows.shape[1] else width
    rest = [np.sqrt((half[:, keep:] ** 2).sum(1)) for half in (rows, columns)]
    return rows[:, :keep] @ columns[:, :keep].T + np.outer(*rest)


def shorten(vectors: np.ndarray, axes: np.ndarray, width: int) -> np.ndarray:
    """The short vectors z, rotated so that their coordinates have similar sizes.

    Args:
        vectors: unit rows, float32 of shape (n, dim).
        axes: from `leading_axes`.
        width: length of a short vector, at most dim.

    Returns:
        float32 of shape (n, width), computed in float64. The product of two short vectors is at
        least the cosine of their vectors, up to rounding in the last bit.
    """
    keep = width - 1 if width < len(axes) else width
    spread = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]
    short = np.empty((len(vectors), width), np.float32)
    for start in range(0, len(vectors), _CHUNK):
        rows = vectors[start : start + _CHUNK].astype(np.float64)
        lead = rows @ axes[:, :keep]
        # 1e-12 rounds up, so that the rest is never too short.
        rest = np.sqrt(np.maximum((rows * rows).sum(1) - (lead * lead).sum(1), 0) + 1e-12)
        both = lead if keep == width else np.column_stack([lead, rest])
        short[start : start + _CHUNK] = both @ spread
    return short


def encode(short: np.ndarray, step: float) -> Codes:
    """Round short vectors to int8 multiples of ``step``."""
    values = np.empty(short.shape, np.int8)
    error = np.empty(len(short))
    for start in range(0, len(short), _CHUNK):
        rows = short[start : start + _CHUNK].astype(np.float64)
        rounded = np.clip(np.rint(rows / step), -127, 127)
        values[start : start + _CHUNK] = rounded
        error[start : start + _CHUNK] = np.sqrt(((rows - step * rounded) ** 2).sum(1))
    return Codes(values, step, error)


def least_product(threshold: float, step: float, error: float, other_error: float) -> int:
    """The smallest product of two codes whose vectors can have a cosine of ``threshold``.

    Args:
        threshold: a cosine.
        step: step of both codes.
        error: largest rounding error of one set.
        other_error: largest rounding error of the other set.
    """
    # 1e-6 covers the rounding of unit vectors, short vectors and the threshold to float32.
    slack = (error + other_error) * (1 + 1e-6) + error * other_error + 1e-6
    return int(np.floor((threshold - slack) / step**2))
