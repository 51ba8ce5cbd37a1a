"""The bank: known prompts with their embeddings, searched for the ones nearest to an embedding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.files import atomic_open

BANK_FOLDER = "bank"
_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Calibration:
    """From a bank prompt's cosine to the prediction to its expected cosine to the truth.

    The expected cosine is ``intercept + slope * cosine``; fitted on held-out pairs for one model
    and one bank.

    Attributes:
        intercept: of the line.
        slope: of the line.
        pairs: held-out pairs that it was fitted on.
        error: root mean square error of the estimate on those pairs.
    """

    intercept: float
    slope: float
    pairs: int
    error: float

    def __str__(self) -> str:
        return (
            f"{self.intercept:.3f} + {self.slope:.3f} x its cosine to the prediction, "
            f"± {self.error:.3f} (on {self.pairs} held-out pairs)"
        )

    def __call__(self, cosine: float) -> float:
        """The expected cosine, in [-1, 1]."""
        return min(1.0, max(-1.0, self.intercept + self.slope * cosine))


@dataclass(frozen=True, slots=True)
class Match:
    """A bank prompt and its cosine to the embedding that was asked for."""

    prompt: str
    cosine: float


class Bank:
    """Prompts and their embeddings, in int8: 1 byte a dimension.

    Rows are scaled so that their largest value is 127. Their lengths carry nothing, since
    embeddings are unit vectors, so no scale is kept; the rounding turns a vector by less than
    1 degree.

    Args:
        prompts: one a row.
        rows: int8 of shape (n, dim), as `quantise` makes them; may be memory-mapped.
        encoder: the target encoder that the embeddings come from.
        calibration: for the model that the bank stands beside.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        rows: np.ndarray,
        encoder: str,
        calibration: Calibration | None = None,
    ):
        if len(prompts) != len(rows):
            raise UnpromptError(f"bank: {len(prompts)} prompts but {len(rows)} embeddings")
        if not len(prompts):
            raise UnpromptError("bank: holds no prompts")
        self.prompts = prompts
        self.rows = rows
        self.encoder = encoder
        self.calibration = calibration

    @classmethod
    def build(cls, prompts: Sequence[str], embeddings: np.ndarray, encoder: str) -> Bank:
        """A bank of prompts (those that repeat are kept once) and their embeddings.

        Args:
            prompts: texts without line breaks; each row must be a line of a file.
            embeddings: float array of shape (n, dim).
            encoder: the encoder that made them.
        """
        first = {" ".join(prompt.split()): row for row, prompt in reversed([*enumerate(prompts)])}
        rows = sorted(first.values())
        texts = [" ".join(prompts[row].split()) for row in rows]
        return cls(texts, quantise(embeddings[rows]), encoder)

    def __len__(self) -> int:
        return len(self.prompts)

    def calibrated(self, calibration: Calibration) -> Bank:
        """The same bank with another calibration."""
        return Bank(self.prompts, self.rows, self.encoder, calibration)

    def search(self, embeddings: np.ndarray, k: int = 1) -> list[list[Match]]:
        """The ``k`` prompts of highest cosine to each embedding, best first; see `nearest`."""
        return [
            [Match(self.prompts[row], float(score)) for row, score in zip(*line, strict=True)]
            for line in zip(*self.nearest(embeddings, k), strict=True)
        ]

    def nearest(self, embeddings: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Rows of highest cosine to each embedding, and the cosines, best first.

        Exact over the rounded rows; ties go to the earlier row.

        Args:
            embeddings: float array of shape (n, dim), of any norm.
            k: how many; fewer when the bank is smaller.

        Returns:
            int64 and float32 arrays of shape (n, k).
        """
        asked = _unit(np.asarray(embeddings, dtype=np.float32))
        k = min(k, len(self))
        found = np.empty((len(asked), 0), dtype=np.int64)
        scores = np.empty((len(asked), 0), dtype=np.float32)
        for start in range(0, len(self), _BLOCK):
            block = self._first_block if start == 0 else self._unit_rows(start)
            here = np.broadcast_to(np.arange(start, start + len(block)), (len(asked), len(block)))
            found = np.hstack([found, here])
            scores = np.hstack([scores, asked @ block.T])
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            found = np.take_along_axis(found, best, axis=1)
            scores = np.take_along_axis(scores, best, axis=1)
        return found, scores

    @cached_property
    def _first_block(self) -> np.ndarray:
        return self._unit_rows(0)

    def _unit_rows(self, start: int) -> np.ndarray:
        return _unit(self.rows[start : start + _BLOCK].astype(np.float32))

    def save(self, folder: str | Path) -> None:
        """Write ``bank.json``, ``prompts.txt`` and ``embeddings.npy`` into a model's folder.

        Raises:
            OutputError: the folder cannot be written.
        """
        folder = Path(folder) / BANK_FOLDER
        with atomic_open(folder / "embeddings.npy", "wb") as file:
            np.save(file, np.asarray(self.rows))
        with atomic_open(folder / "prompts.txt") as file:
            file.writelines(f"{prompt}\n" for prompt in self.prompts)
        calibration = asdict(self.calibration) if self.calibration else None
        with atomic_open(folder / "bank.json") as file:
            json.dump({"encoder": self.encoder, "calibration": calibration}, file, indent=2)
            file.write("\n")

    @classmethod
    def load(cls, folder: str | Path) -> Bank:
        """The bank of a model's folder, its embeddings memory-mapped.

        Raises:
            ModelNotFoundError: the folder holds none.
            UnpromptError: its files are damaged or do not belong together.
        """
        folder = Path(folder) / BANK_FOLDER
        try:
            stated = json.loads((folder / "bank.json").read_text(encoding="utf-8"))
            prompts = (folder / "prompts.txt").read_text(encoding="utf-8").splitlines()
            rows = np.load(folder / "embeddings.npy", mmap_mode="r")
        except FileNotFoundError as error:
            raise ModelNotFoundError(f"{error.filename} is missing: {folder} is no bank") from None
        except (ValueError, EOFError) as error:
            raise UnpromptError(f"{folder} is damaged: {error}; write it again") from error
        try:
            calibration = Calibration(**stated["calibration"]) if stated["calibration"] else None
            return cls(prompts, rows, stated["encoder"], calibration)
        except (KeyError, TypeError, UnpromptError) as error:
            raise UnpromptError(f"{folder} is damaged: {error}; write it again") from error


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of norm 1; a row of zeros, which has no direction, stays as it is."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


def quantise(embeddings: np.ndarray) -> np.ndarray:
    """Float rows of any length to int8 rows whose largest absolute value is 127."""
    largest = np.abs(embeddings).max(axis=1, keepdims=True)
    return np.rint(embeddings * (127 / np.where(largest == 0, 1, largest))).astype(np.int8)
