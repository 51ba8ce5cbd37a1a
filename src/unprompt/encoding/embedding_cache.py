"""The on-disk cache of prompt embeddings, and `encode`, which goes through it."""

from __future__ import annotations

import hashlib
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from unprompt.encoding.encoder import checked, load_encoder
from unprompt.encoding.sources import DEFAULT_ENCODER
from unprompt.files import cache_dir
from unprompt.progress import track

_LOCK_SECONDS = 60.0
_KEYS_PER_QUERY = 1000
_ROWS_PER_COMMIT = 4096
_SECONDS_PER_COMMIT = 10.0


class TextEncoder(Protocol):
    """An encoder of texts: a `PromptEncoder`, or the text tower of a CLIP."""

    @property
    def name(self) -> str:
        """Hub id or path of the model."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the model and its settings, as part of a file name."""
        ...

    @property
    def dim(self) -> int:
        """Width of a vector."""
        ...

    def stream(self, texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield row and vector of each text, in any order."""
        ...


def encode(
    prompts: Sequence[str],
    encoder: str | TextEncoder = DEFAULT_ENCODER,
    backend: str = "auto",
    cache: bool = True,
    precision: str = "auto",
    device: str | None = None,
) -> np.ndarray:
    """Encode prompts, and keep the embeddings in a cache on disk.

    Each distinct text is encoded once. New embeddings are saved every few seconds, so a killed run
    continues where it stopped.

    Args:
        prompts: texts.
        encoder: hub id, path, or a loaded encoder, for which ``backend``, ``precision`` and
            ``device`` are ignored.
        backend: see `load_encoder`.
        cache: read and write ``embeddings/`` in `unprompt.files.cache_dir`.
        precision: see `load_encoder`; use ``fp32`` for figures that others must reproduce.
        device: see `load_encoder`.

    Returns:
        float32 of shape (n, dim), rows of norm 1, in the order of ``prompts``.

    Raises:
        TypeError: an item is not a string.
        UnpromptError: see `load_encoder`.

    Warns:
        UserWarning: the cache cannot be used (no permission, disk full, damaged file); the
            prompts are encoded without it.
    """
    texts = checked(prompts)
    distinct = list(dict.fromkeys(texts))
    if isinstance(encoder, str):
        encoder = load_encoder(encoder, backend, precision, device)
    found = np.empty((len(distinct), encoder.dim), dtype=np.float32)
    store = EmbeddingCache(encoder.fingerprint, encoder.dim) if cache else None
    held = store.read(distinct, found) if store else np.zeros(len(distinct), dtype=bool)
    missing = np.flatnonzero(~held)
    wanted = [distinct[row] for row in missing]

    pending: list[int] = []
    committed = time.monotonic()
    stream = track(encoder.stream(wanted), "Encoding", total=len(wanted))
    for index, vector in stream:
        row = int(missing[index])
        found[row] = vector
        pending.append(row)
        late = time.monotonic() - committed > _SECONDS_PER_COMMIT
        if store and (late or len(pending) >= _ROWS_PER_COMMIT):
            store.write([distinct[row] for row in pending], found[pending])
            pending, committed = [], time.monotonic()
    if store and pending:
        store.write([distinct[row] for row in pending], found[pending])
    if len(distinct) == len(texts):
        return found
    row_of = {text: row for row, text in enumerate(distinct)}
    return found[[row_of[text] for text in texts]]


class EmbeddingCache:
    """Embeddings of one encoder in one SQLite file, by text.

    With SQLite's write-ahead log, readers never wait, writers wait for each other, and a killed
    process leaves the file intact. The log needs a local file system: set ``UNPROMPT_CACHE`` to a
    local folder if the home folder is on a network. Texts are stored as 128-bit BLAKE2b hashes.

    Args:
        fingerprint: `PromptEncoder.fingerprint`; each encoder has its own file.
        dim: width of its embeddings.
        folder: folder of the file; by default ``embeddings`` in `unprompt.files.cache_dir`.
    """

    def __init__(self, fingerprint: str, dim: int, folder: str | Path | None = None):
        folder = cache_dir() / "embeddings" if folder is None else Path(folder)
        self.path = folder / f"{fingerprint}.sqlite"
        self.dim = dim
        self._usable = True

    def read(self, texts: Sequence[str], out: np.ndarray) -> np.ndarray:
        """Read the embeddings that are in the cache.

        Args:
            texts: distinct texts.
            out: float32 of shape (n, dim), filled in; rows of missing texts are not changed.

        Returns:
            bool of shape (n,): which texts are in the cache.
        """
        held = np.zeros(len(texts), dtype=bool)
        if not self.path.exists():
            return held
        try:
            with closing(self._connect()) as connection:
                for start in range(0, len(texts), _KEYS_PER_QUERY):
                    keys = {
                        _key(text): row
                        for row, text in enumerate(texts[start : start + _KEYS_PER_QUERY], start)
                    }
                    marks = ",".join("?" * len(keys))
                    query = f"SELECT key, vector FROM embeddings WHERE key IN ({marks})"  # noqa: S608
                    for key, vector in connection.execute(query, list(keys)):
                        if len(vector) == 4 * self.dim:
                            row = keys[key]
                            out[row] = np.frombuffer(vector, dtype="<f4")
                            held[row] = True
        except sqlite3.Error as error:
            self._give_up(error)
            held[:] = False
        return held

    def write(self, texts: Iterable[str], vectors: np.ndarray) -> None:
        """Add embeddings, float32 of shape (n, dim), in one transaction."""
        if not self._usable:
            return
        rows = [
            (_key(text), vector.tobytes())
            for text, vector in zip(texts, vectors.astype("<f4", copy=False), strict=True)
        ]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_LOCK_SECONDS, isolation_level=None)
        connection.execute("PRAGMA page_size = 8192")
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            # If two processes create the file at once, SQLite does not wait here.
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        # A power failure may lose the last commits, which are then encoded again, but not the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"
        )
        return connection

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        warnings.warn(
            f"the embedding cache {self.path} cannot be used ({error}), so prompts are encoded "
            "without it; if the file is damaged, delete it",
            stacklevel=4,
        )


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
