"""The images of a table, looked at: their size, whether they show anything, near-duplicates."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unprompt.curating.dedup.deduplication import Deduplication, deduplicate
from unprompt.errors import TableError, UnpromptError
from unprompt.pairs.table import PairsTable
from unprompt.progress import track

HASH_BITS = 64
MAX_DISTANCE = 8
"""Bits of 64 in which the hashes of near-duplicate images may differ: copies that were scaled,
compressed again or slightly cropped differ in 0 to 8, unrelated images in 32 on average."""

_SIDE = 32
_LOW = 8
_FLAT = 2.0


def image_sides(table: PairsTable, rows: np.ndarray) -> np.ndarray:
    """Width and height of images, int64 of shape (n, 2): from the table, else from the file.

    An image whose size cannot be found counts as 0 x 0.

    Args:
        table: pairs.
        rows: whose images, counted from 0, int64 of shape (n,).
    """
    columns = [table.data.column(name).fill_null(0) for name in ("width", "height")]
    sides = np.stack([column.to_numpy() for column in columns], axis=1).astype(np.int64)[rows]
    for place in np.flatnonzero(sides.min(1, initial=1) <= 0):
        sides[place] = _stored_size(table, int(rows[place]))
    return sides


def _stored_size(table: PairsTable, row: int) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(table.read_bytes(row))) as image:
            return image.size
    except (TableError, OSError, Image.DecompressionBombError):
        return 0, 0


def is_blank(image: Image.Image) -> bool:
    """Whether an image is of one colour: no channel strays from its mean by more than 2 of 255."""
    values = np.asarray(image.convert("RGB"), np.float32).reshape(-1, 3)
    return bool(values.std(0).max() < _FLAT)


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """The 64-bit perceptual hash (pHash) of an image, as bool of shape (64,).

    The image is scaled to 32 x 32 in grey; of its cosine transform the 8 x 8 lowest frequencies
    are compared with their median (Zauner, Implementation and Benchmarking of Perceptual Image
    Hash Functions, 2010, section 3.2.1).
    """
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    place = np.arange(_SIDE)
    waves = np.cos(np.pi / _SIDE * (place + 0.5) * np.arange(_LOW)[:, None])
    low = waves @ np.asarray(grey, np.float64) @ waves.T
    return (low > np.median(low)).ravel()


@dataclass(frozen=True)
class ImageDuplicates:
    """Near-duplicate images of a table.

    Attributes:
        found: the near-duplicates among the images that could be read; as `Deduplication` of
            prompts, but counted in places of ``rows``. A cosine c means 32·(1 - c) bits.
        rows: rows of the table whose images could be read, int64, ascending.
        failed: for each row that could not, why.
    """

    found: Deduplication
    rows: np.ndarray
    failed: dict[int, str]

    @property
    def kept(self) -> np.ndarray:
        """Rows to keep, int64, ascending; of the images that could not be read none."""
        return self.rows[self.found.kept]

    @property
    def groups(self) -> list[np.ndarray]:
        """Rows of each group of two or more near-duplicate images, the largest group first."""
        return [self.rows[group] for group in self.found.groups]


def deduplicate_images(
    table: PairsTable,
    max_distance: int = MAX_DISTANCE,
    keep: str = "first",
) -> ImageDuplicates:
    """Find near-duplicate images, exactly: those whose hashes differ in few bits.

    Args:
        table: pairs whose images are there.
        max_distance: most bits of 64 that may differ, 0 to 31.
        keep: ``first`` or ``central``, as in `deduplicate`.

    Raises:
        UnpromptError: a wrong distance or rule.
    """
    if not 0 <= max_distance < HASH_BITS // 2:
        raise UnpromptError(f"the distance must be 0 to 31 bits, not {max_distance}")
    if keep == "longest":
        raise UnpromptError("keep='longest' is for prompts; images take first or central")
    hashes: list[np.ndarray] = []
    rows: list[int] = []
    failed: dict[int, str] = {}
    for row in track(range(len(table)), "Hashing images"):
        try:
            hashes.append(perceptual_hash(table.open_image(row, at_least=_SIDE)))
            rows.append(row)
        except TableError as error:
            failed[row] = str(error)
    # Bits as -1 and 1: vectors whose cosine is 1 - distance / 32.
    vectors = np.where(np.array(hashes).reshape(-1, HASH_BITS), np.float32(1), np.float32(-1))
    found = deduplicate(vectors, 1 - max_distance / (HASH_BITS / 2), keep)
    return ImageDuplicates(found, np.array(rows, np.int64), failed)
