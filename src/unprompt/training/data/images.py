"""The images of a table as a run trains on them: decoded each time they are shown, or cached.

To read raw pixels from disk takes a small part of the time of decoding (a PNG of 512 px decodes in
about 8 ms). The price is disk space: 150 kB an image at 224 px, 15 GB for 100,000 images. The
pixels are the same to the bit either way, so the space on the disk does not change a run.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from unprompt.errors import TableError
from unprompt.models.fingerprint import fingerprint
from unprompt.models.preprocessing import Preprocessing
from unprompt.pairs.table import PairsTable
from unprompt.parallel import cores
from unprompt.training.data.chunk_cache import (
    Arrays,
    fingerprint_of_images,
    in_chunks,
    missing,
    readable,
)

CACHE = "images"
"""Folder of the cache that holds them."""

CHUNK = 256
"""TrainingImages that are held in memory until they are written: 40 to 150 MB."""

MARGIN = 1.3
"""Largest shorter side of an image for crops, as a multiple of the input's side: then a crop of
60 % of the area needs no enlarging."""


class _CachedPixels:
    """The places of each row's pixels in the cache.

    Args:
        chunks: the folders, each of `CHUNK` rows.

    Attributes:
        failures: for each row the reason why it cannot be decoded, or an empty string.
    """

    def __init__(self, chunks: list[Path]):
        shapes = [np.load(chunk / "shapes.npy") for chunk in chunks]
        self.failures = [str(line) for chunk in chunks for line in np.load(chunk / "failures.npy")]
        self._files = [chunk / "pixels.npy" for chunk in chunks]
        self._shapes = np.concatenate(shapes)
        counts = [shape.prod(axis=1) for shape in shapes]
        # Pixels are the end of a file, after numpy's header.
        headers = [
            file.stat().st_size - count.sum()
            for file, count in zip(self._files, counts, strict=True)
        ]
        self._offsets = np.concatenate(
            [head + n.cumsum() - n for head, n in zip(headers, counts, strict=True)]
        )

    def read(self, row: int) -> np.ndarray:
        """The pixels of one row, uint8; no file stays open.

        Raises:
            FileNotFoundError: the cache was deleted.
            TableError: a file of it was cut off.
        """
        pixels = np.empty(self._shapes[row], np.uint8)
        file = self._files[row // CHUNK]
        with file.open("rb", buffering=0) as handle:
            handle.seek(int(self._offsets[row]))
            if handle.readinto(pixels.data) != pixels.size:
                raise TableError(f"{file} is cut off; delete its folder")
        return pixels


class TrainingImages:
    """The images of a table as a run trains on them.

    Args:
        table: the pairs.
        preprocessing: the model's input.
        whole: whether the model gets whole images, exactly as in an evaluation; otherwise they are
            for crops, with a shorter side of at most `MARGIN` times the input's.
    """

    def __init__(self, table: PairsTable, preprocessing: Preprocessing, whole: bool):
        self._table = table
        self._preprocessing = preprocessing
        self._whole = whole
        self._side = preprocessing.least_side if whole else math.ceil(MARGIN * preprocessing.size)
        self._cached: _CachedPixels | None = None

    def __len__(self) -> int:
        return len(self._table)

    def keep(self) -> Self:
        """Decode all images that are not cached yet, in threads, and cache their pixels.

        The pixels lie in `unprompt.files.cache_dir`, under a name made of the images and their
        preprocessing. After a kill the next call continues at the same chunk.

        Raises:
            OutputError: the cache cannot be written.
        """
        # Pillow decodes and scales outside of Python's lock.
        with ThreadPoolExecutor(max(4, cores())) as pool:

            def make(rows: range) -> Arrays:
                made = list(pool.map(self._decoded, rows))
                return {
                    "pixels": np.concatenate([pixels.reshape(-1) for pixels, _ in made]),
                    "shapes": np.array([pixels.shape for pixels, _ in made], np.int64),
                    "failures": np.array([failure for _, failure in made]),
                }

            chunks = in_chunks(CACHE, self._key, len(self), make, "Decoding images", CHUNK)
            places = [place for place, _ in chunks]
        self._cached = _CachedPixels(places)
        return self

    def bytes_to_keep(self) -> int:
        """Bytes that `keep` would add to the disk; exact for whole images of which none is kept.

        Images for crops are counted by the table's columns ``width`` and ``height``, and as
        squares where it has none.
        """
        if not len(self):
            return 0
        lacking = missing(CACHE, self._key, len(self), CHUNK)
        if self._whole:
            return lacking * 3 * self._preprocessing.size**2
        sides = np.full((len(self), 2), self._side, float)
        if self._table.has("width") and self._table.has("height"):
            sides = np.array([self._table.column(name) for name in ("width", "height")], float).T
            sides *= np.minimum(1, self._side / sides.min(axis=1, keepdims=True).clip(min=1))
        return round(lacking * 3 * float(sides.prod(axis=1).mean()))

    @property
    def readable(self) -> np.ndarray:
        """The rows whose images can be decoded, int64; only after `keep`.

        Raises:
            TableError: no image can be decoded.
        """
        if self._cached is None:
            raise ValueError("call keep() first")
        return readable(self._table.name, self._cached.failures)

    def pixels(self, row: int) -> np.ndarray:
        """The whole image of one row, counted from 0, as the model takes it.

        Returns:
            uint8 of shape (3, size, size).

        Raises:
            TableError: the image cannot be decoded.
        """
        if not self._whole:
            raise ValueError("these images are for crops; call image()")
        cached = self._read(row)
        return self._preprocessing(self._decode(row)) if cached is None else cached

    def image(self, row: int) -> Image.Image:
        """The image of one row, counted from 0, in RGB, for crops.

        Raises:
            TableError: the image cannot be decoded.
        """
        if self._whole:
            raise ValueError("these images are whole; call pixels()")
        cached = self._read(row)
        return self._decode(row) if cached is None else Image.fromarray(cached)

    def _read(self, row: int) -> np.ndarray | None:
        """The cached pixels of one row; None where there are none.

        The cache can be deleted at any time. An image that could not be decoded is tried again, so
        that the error names this table and not that of the run that made the cache.
        """
        if self._cached is None or self._cached.failures[row]:
            return None
        with suppress(FileNotFoundError):
            return self._cached.read(row)
        return None

    def _decode(self, row: int) -> Image.Image:
        image = self._table.open_image(row, self._side)
        return image if self._whole else shrunk(image, self._side)

    def _decoded(self, row: int) -> tuple[np.ndarray, str]:
        """Pixels to cache, uint8, as `pixels` or `image` returns them; and the failure, if any."""
        try:
            image = self._decode(row)
        except TableError as error:
            return np.empty((0, 0, 0), np.uint8), str(error)
        return self._preprocessing(image) if self._whole else np.asarray(image), ""

    @cached_property
    def _key(self) -> str:
        images = fingerprint_of_images(self._table)
        return fingerprint(asdict(self._preprocessing), self._whole, self._side, images)


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image with its shorter side of at most ``side`` pixels, never enlarged."""
    scale = side / min(image.size)
    if scale >= 1:
        return image
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
