"""Checks of the images of a table: size, one colour, near-duplicates."""

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
"""Bits, of 64, in which the hashes of near-duplicate images may differ. Scaled, recompressed or
slightly cropped copies differ in 0 to 8 bits, unrelated images in 32 on average."""

_SIDE = 32
_LOW = 8
_FLAT = 2.0


def image_sides(table: PairsTable, rows: np.ndarray) -> np.ndarray:
    """Width and height of images: int64 of shape (n, 2).

    Sizes that the table does not state are read from the image; unknown sizes are 0 x 0.

    Args:
        table: the pairs.
        rows: rows of the images, counted from 0, int64 of shape (n,).
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
    """Whether an image has one colour: each channel has a standard deviation below 2 of 255."""
    values = np.asarray(image.convert("RGB"), np.float32).reshape(-1, 3)
    return bool(values.std(0).max() < _FLAT)


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """The 64-bit perceptual hash (pHash) of an image, as bool of shape (64,).

    The image is scaled to 32 x 32 grey pixels. Each bit states whether one of the 8 x 8 lowest
    frequencies of its cosine transform is above their median (Zauner, Implementation and
    Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1).
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
        found: the near-duplicates among the readable images; its row numbers are indices into
            ``rows``. A cosine c means a distance of 32·(1 - c) bits.
        rows: rows of the table with readable images, int64, ascending.
        failed: why the image of each other row cannot be read.
    """

    found: Deduplication
    rows: np.ndarray
    failed: dict[int, str]

    @property
    def kept(self) -> np.ndarray:
        """Rows to keep, int64, ascending, without unreadable images."""
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
    """Find near-duplicate images, whose perceptual hashes differ in few bits.

    Args:
        table: pairs with their images.
        max_distance: greatest number of bits, of 64, that may differ: 0 to 31.
        keep: ``first`` or ``central``, as in `deduplicate`.

    Raises:
        UnpromptError: the distance or the rule is wrong.
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
