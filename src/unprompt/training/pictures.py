"""A table's images decoded and scaled down once, so that no later epoch decodes them again.

Raw pixels read from disk cost a small part of what decoding does (a PNG of 512 px decodes in
about 8 ms). The price is disk: 150 kB an image at 224 px, where 100,000 images take 15 GB.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

import numpy as np
from PIL import Image

from unprompt.errors import TableError
from unprompt.models.fingerprint import fingerprint
from unprompt.models.preprocessing import Preprocessing
from unprompt.pairs.table import PairsTable
from unprompt.training.once import (
    CHUNK,
    Arrays,
    fingerprint_of_images,
    in_chunks,
    readable,
)

THREADS = 4
"""Of the first pass; Pillow decodes and scales outside of Python's lock."""

MARGIN = 1.3
"""Shorter side of a stored picture, as a multiple of the input's, where crops are cut from it: at
this one a crop of 60 % of the area need not be enlarged."""


class Pictures:
    """The images of a table as they are trained on, read from disk as raw pixels.

    Those that are not there yet are decoded first, in threads; a killed call goes on from where
    it was. They are kept in `unprompt.files.cache_dir`, under a name made of the images and of
    what is done to them.

    Args:
        table: the pairs.
        preprocessing: the model's input.
        whole: whether the model gets whole pictures, which are then stored exactly as it takes
            them; otherwise as they are, with a shorter side of `MARGIN` times the input's at most.
        progress: show a bar.

    Raises:
        OutputError: the cache cannot be written.
    """

    def __init__(
        self, table: PairsTable, preprocessing: Preprocessing, whole: bool, progress: bool = False
    ):
        layout = "planes" if whole else "rows"
        key = fingerprint(asdict(preprocessing), layout, fingerprint_of_images(table))
        side = preprocessing.size if whole else math.ceil(MARGIN * preprocessing.size)
        with ThreadPoolExecutor(THREADS) as pool:
            at_least = 2 * preprocessing.size if whole else side

            def make(rows: range) -> Arrays:
                read = partial(_read, table, at_least, preprocessing if whole else side)
                made = list(pool.map(read, rows))
                pixels = [array.reshape(-1) for array, _, _ in made]
                return {
                    "pixels": np.concatenate([np.empty(0, np.uint8), *pixels]),
                    "sizes": np.array([size for _, size, _ in made], np.int64),
                    "failures": np.array([failure for _, _, failure in made]),
                }

            found = in_chunks("pictures", key, len(table), make, "Decoding images", progress)
            self._chunks = [chunk for chunk, _ in found]
        self._sizes = np.concatenate([np.load(chunk / "sizes.npy") for chunk in self._chunks])
        self._failures = [str(f) for chunk in self._chunks for f in np.load(chunk / "failures.npy")]
        ends = [np.cumsum(3 * sizes.prod(axis=1)) for sizes in self._by_chunk()]
        self._starts = np.concatenate([np.concatenate([[0], end[:-1]]) for end in ends])
        self._table_name = table.name
        self._side = preprocessing.size if whole else None
        self._open: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def readable(self) -> np.ndarray:
        """The rows whose images could be decoded, int64.

        Raises:
            TableError: none could.
        """
        return readable(self._table_name, self._failures)

    def pixels(self, row: int) -> np.ndarray:
        """The whole picture of one row, counted from 0, as the model takes it.

        Returns:
            uint8 of shape (3, size, size).

        Raises:
            TableError: it could not be decoded.
        """
        if self._side is None:
            raise ValueError("these pictures are not whole; take image()")
        return np.array(self._bytes(row)).reshape(3, self._side, self._side)

    def image(self, row: int) -> Image.Image:
        """The picture of one row, counted from 0, in RGB, for crops.

        Raises:
            TableError: it could not be decoded.
        """
        if self._side is not None:
            raise ValueError("these pictures are whole; take pixels()")
        height, width = (int(side) for side in self._sizes[row])
        return Image.frombytes("RGB", (width, height), self._bytes(row).tobytes())

    def _bytes(self, row: int) -> np.ndarray:
        if self._failures[row]:
            raise TableError(self._failures[row])
        start, (height, width) = int(self._starts[row]), self._sizes[row]
        return self._of_chunk(row // CHUNK)[start : start + 3 * int(height) * int(width)]

    def _by_chunk(self) -> list[np.ndarray]:
        return [self._sizes[start : start + CHUNK] for start in range(0, len(self), CHUNK)]

    def _of_chunk(self, chunk: int) -> np.ndarray:
        if chunk not in self._open:
            self._open[chunk] = np.load(self._chunks[chunk] / "pixels.npy", mmap_mode="r")
        return self._open[chunk]

    def __getstate__(self) -> dict[str, object]:
        # A decoding process opens the files by itself.
        return self.__dict__ | {"_open": {}}


def _read(
    table: PairsTable, at_least: int, form: Preprocessing | int, row: int
) -> tuple[np.ndarray, tuple[int, int], str]:
    """Pixels, uint8, height and width, and why there are none.

    Pixels are (3, size, size) as the model takes them, or (height, width, 3) as Pillow does.
    """
    try:
        image = table.open_image(row, at_least)
    except TableError as error:
        return np.empty(0, np.uint8), (0, 0), str(error)
    if isinstance(form, Preprocessing):
        return form(image), (form.size, form.size), ""
    image = shrunk(image, form)
    return np.asarray(image), (image.height, image.width), ""


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image with its shorter side of at most ``side`` pixels, never enlarged."""
    scale = side / min(image.size)
    if scale >= 1:
        return image
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
