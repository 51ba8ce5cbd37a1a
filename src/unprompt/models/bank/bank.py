"""The bank: known prompts with their embeddings, searched by embedding.

Its folder holds ``bank.json``, ``prompts.txt`` (one prompt on each line), ``embeddings.npy`` (int8,
one row for each prompt, memory-mapped) and, for a large bank, ``index.faiss``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.files import atomic_folder, atomic_open, write_json
from unprompt.models.bank.faiss_index import INDEX_FILE, INDEXES, PROBES, build_index, load_index
from unprompt.models.bank.lines import Lines
from unprompt.models.calibration import NEIGHBOURS, Calibration, csls
from unprompt.models.model_folder import BANK_FOLDER, read_json

BANK_FILE = "bank.json"
PROMPTS_FILE = "prompts.txt"
ROWS_FILE = "embeddings.npy"
TEMPERATURE = 0.05
"""Temperature of the weights of kNN regression, in cosine."""

_BLOCK = 8_192  # rows that are searched together; as floats they fit the processor's cache
# An index proposes this many rows for each row of the result, and at least so many in all.
_PROPOSED, _LEAST_PROPOSED = 10, 100


@dataclass(frozen=True, slots=True)
class Match:
    """A bank prompt and its cosine to the embedding that was searched for."""

    prompt: str
    cosine: float


class Bank:
    """Prompts and their embeddings, in int8: 1 byte a dimension.

    Each row is scaled so that its largest value is 127. Embeddings are unit vectors, so the scale
    is not kept. The rounding turns a vector by less than 1 degree.

    Args:
        prompts: one prompt for each row.
        rows: int8 of shape (n, dim), as `quantise` makes them; may be memory-mapped.
        encoder: the target encoder that made the embeddings.
        calibration: from the CSLS of a prompt to its expected cosine to the true prompt, for the
            model whose folder holds the bank.
        index: a Faiss index that proposes rows, see `unprompt.models.bank.faiss_index`; without
            one every row is searched.

    Raises:
        UnpromptError: there are no prompts, or more or fewer prompts than embeddings.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        rows: np.ndarray,
        encoder: str,
        calibration: Calibration | None = None,
        index: Any = None,
    ):
        if len(prompts) != len(rows):
            raise UnpromptError(f"bank: {len(prompts)} prompts but {len(rows)} embeddings")
        if not len(prompts):
            raise UnpromptError("bank: holds no prompts")
        self.prompts = prompts
        self.rows = rows
        self.encoder = encoder
        self.calibration = calibration
        self._index = index

    @classmethod
    def build(cls, prompts: Sequence[str], embeddings: np.ndarray, encoder: str) -> Bank:
        """Make a bank of prompts and their embeddings; equal prompts are kept once.

        Args:
            prompts: texts; white space in them becomes single spaces.
            embeddings: float array of shape (n, dim).
            encoder: the encoder that made them.
        """
        first = {" ".join(prompt.split()): row for row, prompt in reversed([*enumerate(prompts)])}
        rows = sorted(first.values())
        texts = [" ".join(prompts[row].split()) for row in rows]
        return cls(texts, quantise(embeddings[rows]), encoder)

    def __len__(self) -> int:
        return len(self.prompts)

    def calibrated(self, calibration: Calibration | None) -> Bank:
        """A copy of the bank with another calibration."""
        return Bank(self.prompts, self.rows, self.encoder, calibration, self._index)

    def exact(self) -> Bank:
        """A copy of the bank without its index, which searches every row."""
        return Bank(self.prompts, self.rows, self.encoder, self.calibration)

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of rows of any shape, float32 of norm 1, with ``dim`` as last axis."""
        chosen = self.rows[rows.ravel()].astype(np.float32)
        return unit(chosen).reshape(*rows.shape, -1)

    def regress(
        self,
        embeddings: np.ndarray,
        k: int,
        temperature: float = TEMPERATURE,
        values: np.ndarray | Bank | None = None,
    ) -> np.ndarray:
        """The weighted mean of the nearest prompts' embeddings: kNN regression.

        The Kaggle competition's kNN solutions did this with CLIP's embeddings of a million prompts
        as ``rows`` and MiniLM's as ``values``.

        Args:
            embeddings: float array of shape (n, dim), of any norm.
            k: number of nearest prompts.
            temperature: a prompt has the weight exp(cosine / temperature); a small temperature
                gives the nearest prompts most of the weight.
            values: the vectors to average, one row for each prompt, or another bank of the same
                prompts; the bank's own embeddings by default.

        Returns:
            float32 of shape (n, width of ``values``), of norm 1.
        """
        found, scores = self.nearest(embeddings, k)
        weights = np.exp((scores - scores[:, :1]) / temperature)
        rows = self if values is None else values
        chosen = rows.embeddings(found) if isinstance(rows, Bank) else rows[found]
        return unit(np.einsum("nk,nkd->nd", weights, chosen).astype(np.float32))

    def search(self, embeddings: np.ndarray, k: int = 1) -> list[list[Match]]:
        """The ``k`` prompts of highest cosine to each embedding, best first; see `nearest`."""
        return [
            [Match(self.prompts[row], float(score)) for row, score in zip(*line, strict=True)]
            for line in zip(*self.nearest(embeddings, k), strict=True)
        ]

    def answers(self, embeddings: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Rows and CSLS of the ``k`` prompts of highest CSLS for each embedding, best first.

        The prompt of highest CSLS is nearer to the true prompt than the prompt of highest cosine,
        which is often a hub: a cosine of 0.436 against 0.421 on the built-in model's 809 test pairs
        (experiments/NOTES.md). See `unprompt.models.calibration.csls`.

        Args:
            embeddings: float array of shape (n, dim), of any norm.
            k: how many; fewer when the bank is smaller.

        Returns:
            int64 and float32 arrays of shape (n, k).
        """
        found, _ = self.nearest(embeddings, max(k, NEIGHBOURS))
        near = self.embeddings(found)
        queries = unit(np.asarray(embeddings, dtype=np.float32))
        order, scores = _best(csls(queries, near, near[:, :NEIGHBOURS]), k)
        return np.take_along_axis(found, order, axis=1), scores

    def stand_out(self, embeddings: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """CSLS of answers that another rule chose.

        Args:
            embeddings: float array of shape (n, dim), of any norm.
            answers: embeddings of the answers for each embedding, float32 (n, k, dim), norm 1.

        Returns:
            float32 of shape (n, k).
        """
        near = self.embeddings(self.nearest(embeddings, NEIGHBOURS)[0])
        return csls(unit(np.asarray(embeddings, dtype=np.float32)), answers, near)

    def nearest(self, embeddings: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Rows of highest cosine to each embedding, and the cosines, best first.

        Without an index the search over the rounded rows is exact, and of equal cosines the earlier
        row comes first. With an index the cosines are exact, but a few rows may be missed.

        Args:
            embeddings: float array of shape (n, dim), of any norm.
            k: how many; fewer when the bank is smaller.

        Returns:
            int64 and float32 arrays of shape (n, k).
        """
        queries = unit(np.asarray(embeddings, dtype=np.float32))
        k = min(k, len(self))
        if self._index is not None:
            return self._confirmed(queries, k)
        found = np.empty((len(queries), 0), dtype=np.int64)
        scores = np.empty((len(queries), 0), dtype=np.float32)
        for start in range(0, len(self), _BLOCK):
            block = self.rows[start : start + _BLOCK].astype(np.float32)
            rows, values = _best(queries @ block.T / self._norms[start : start + _BLOCK], k)
            found = np.hstack([found, rows + start])
            scores = np.hstack([scores, values])
            order, scores = _best(scores, k)
            found = np.take_along_axis(found, order, axis=1)
        return found, scores

    def _confirmed(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best of the rows that the index proposes; if those are too few, the best of all."""
        _, proposed = self._index.search(
            queries, min(len(self), max(_PROPOSED * k, _LEAST_PROPOSED))
        )
        proposed.sort(axis=1)
        scores = np.einsum("nd,nkd->nk", queries, self.embeddings(np.maximum(proposed, 0)))
        order, scores = _best(np.where(proposed < 0, -2, scores), k)
        found = np.take_along_axis(proposed, order, axis=1)
        if (few := (found < 0).any(axis=1)).any():
            found[few], scores[few] = self.exact().nearest(queries[few], k)
        return found, scores

    @cached_property
    def _norms(self) -> np.ndarray:
        """Lengths of the rows, float32 (n,); 1 for a row of zeros, as in `unit`."""
        starts = range(0, len(self), _BLOCK)
        blocks = (self.rows[start : start + _BLOCK].astype(np.float32) for start in starts)
        norms = np.concatenate([np.linalg.norm(block, axis=1) for block in blocks])
        return np.where(norms == 0, np.float32(1), norms)

    def _blocks(self) -> Iterator[np.ndarray]:
        """Unit rows, block by block."""
        for start in range(0, len(self), _BLOCK):
            yield unit(self.rows[start : start + _BLOCK].astype(np.float32))

    def save(self, folder: str | Path) -> None:
        """Write ``bank.json``, ``prompts.txt`` and ``embeddings.npy`` into a model's folder.

        Raises:
            OutputError: the folder cannot be written.
        """
        folder = Path(folder) / BANK_FOLDER
        with atomic_open(folder / ROWS_FILE, "wb") as file:
            np.save(file, np.asarray(self.rows))
        with atomic_open(folder / PROMPTS_FILE) as file:
            file.writelines(f"{prompt}\n" for prompt in self.prompts)
        self.save_head(folder.parent)

    def save_head(self, folder: str | Path) -> None:
        """Write ``bank.json`` alone, with the calibration, beside the bank's other files.

        Raises:
            OutputError: the folder cannot be written.
        """
        _write_head(Path(folder) / BANK_FOLDER, self.encoder, self.calibration)

    @classmethod
    def load(cls, folder: str | Path, probes: int = PROBES) -> Bank:
        """Load the bank of a bank's or a model's folder; its files are memory-mapped.

        Args:
            folder: the folder of ``bank.json``, or the folder above.
            probes: number of cells of an index that are searched for an embedding.

        Raises:
            ModelNotFoundError: the folder holds no bank.
            UnpromptError: its files are damaged or do not belong together.
        """
        folder = Path(folder)
        if not (folder / BANK_FILE).is_file():
            folder = folder / BANK_FOLDER
        try:
            stated = read_json(folder / BANK_FILE)
            prompts = Lines(folder / PROMPTS_FILE)
            rows = np.load(folder / ROWS_FILE, mmap_mode="r")
        except FileNotFoundError as error:
            raise ModelNotFoundError(
                f"{error.filename} is missing: {folder} is not a bank"
            ) from None
        except (ValueError, EOFError) as error:
            raise UnpromptError(f"{folder} is damaged: {error}; write it again") from error
        index = load_index(folder / INDEX_FILE, probes)
        try:
            calibration = Calibration(**stated["calibration"]) if stated["calibration"] else None
            if index is not None and index.ntotal != len(rows):
                raise UnpromptError(f"{INDEX_FILE} holds {index.ntotal} rows, not {len(rows)}")
            return cls(prompts, rows, stated["encoder"], calibration, index)
        except (KeyError, TypeError, ValueError, UnpromptError) as error:
            raise UnpromptError(f"{folder} is damaged: {error}; write it again") from error


def write_bank(
    folder: str | Path,
    blocks: Iterable[tuple[Sequence[str], np.ndarray]],
    encoder: str,
    index: str = "flat",
    seed: int = 0,
) -> Bank:
    """Write a bank block by block, so that it may be larger than memory.

    Args:
        folder: folder of the bank, new or empty.
        blocks: distinct prompts without line breaks, and their embeddings, float (n, dim).
        encoder: the encoder that made them.
        index: ``flat`` searches every row; ``sq8`` and ``pq`` are Faiss indexes for large banks.
        seed: seed of the index's sample.

    Returns:
        The bank, memory-mapped.

    Raises:
        OutputError: the folder is not empty or cannot be written.
        MissingExtraError: the index needs faiss, which is not installed.
        UnpromptError: there are no prompts, no such index, or too few prompts for it.
    """
    if index not in INDEXES:
        raise UnpromptError(f"index '{index}': must be one of {', '.join(INDEXES)}")
    with atomic_folder(folder) as temporary:
        count, dim = 0, 0
        with (
            (temporary / ROWS_FILE).open("wb") as rows,
            atomic_open(temporary / PROMPTS_FILE) as lines,
        ):
            for prompts, embeddings in blocks:
                if not dim:
                    dim = embeddings.shape[1]
                    _write_shape(rows, 0, dim)
                rows.write(quantise(embeddings).tobytes())
                lines.writelines(f"{prompt}\n" for prompt in prompts)
                count += len(prompts)
            rows.seek(0)
            _write_shape(rows, count, dim)
        if not count:
            raise UnpromptError("bank: holds no prompts")
        _write_head(temporary, encoder, None)
        if index != "flat":
            written = Bank.load(temporary)
            build_index(index, written.rows, written._blocks, temporary / INDEX_FILE, seed)
            del written
    return Bank.load(folder)


def recall(bank: Bank, k: int = 10, queries: int = 200, seed: int = 0) -> float:
    """Share of the true ``k`` nearest prompts that a bank finds; 1 without an index.

    The queries have a cosine of about 0.7 to a prompt of the bank, like predicted embeddings. The
    bank's own rows would be easier to find.

    Args:
        bank: with an index or without.
        k: number of nearest prompts.
        queries: number of embeddings to search for.
        seed: seed of the random queries.
    """
    random = np.random.default_rng(seed)
    rows = bank.embeddings(random.integers(len(bank), size=queries))
    noise = unit(random.normal(size=rows.shape).astype(np.float32))
    asked = rows + noise
    found, true = bank.nearest(asked, k)[0], bank.exact().nearest(asked, k)[0]
    hits = sum(len(set(f) & set(t)) for f, t in zip(found.tolist(), true.tolist(), strict=True))
    return hits / true.size


def _write_head(folder: Path, encoder: str, calibration: Calibration | None) -> None:
    stated = asdict(calibration) if calibration else None
    write_json(folder / BANK_FILE, {"encoder": encoder, "calibration": stated})


def _write_shape(file: Any, count: int, dim: int) -> None:
    """Write the header of an .npy file; numpy leaves space in it for the first axis to grow."""
    head = {"descr": "|i1", "fortran_order": False, "shape": (count, dim)}
    np.lib.format.write_array_header_1_0(file, head)


def _best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the ``k`` largest values of each row, best first, and the values.

    Of equal values, the earlier one comes first. Only values of at least the k-th are sorted.
    """
    count = scores.shape[1]
    k = min(k, count)
    least = np.partition(scores, count - k, axis=1)[:, count - k]
    best = np.empty((len(scores), k), dtype=np.int64)
    for row, line in enumerate(scores):
        columns = np.flatnonzero(line >= least[row])
        best[row] = columns[np.argsort(-line[columns], kind="stable")[:k]]
    return best, np.take_along_axis(scores, best, axis=1)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of norm 1; a row of zeros stays as it is."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


def quantise(embeddings: np.ndarray) -> np.ndarray:
    """Float rows of any length to int8 rows whose largest absolute value is 127."""
    largest = np.abs(embeddings).max(axis=1, keepdims=True)
    return np.rint(embeddings * (127 / np.where(largest == 0, 1, largest))).astype(np.int8)
