"""Images found on disk and decoded to plain RGB, whatever they were."""

from __future__ import annotations

import glob
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, ImageOps

from unprompt.errors import UnreadableImageError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
"""File name endings that a folder search takes for images; a file named outright may have any."""

MAX_PIXELS = 100_000_000
"""Images with more pixels are refused before decoding: at this size one takes up to 0.95 GB."""

_TO_EIGHT_BITS = [round(value / 257) for value in range(65536)]

ImageSource = str | Path | bytes | IO[bytes] | Image.Image


def find_images(inputs: Iterable[str | Path], recursive: bool = False) -> list[Path]:
    """Expand files, folders and glob patterns to image paths, each once, in a stable order.

    A folder gives its files with an image suffix, sorted by name; ``recursive`` descends into
    sub-folders, hidden ones excepted. A path that does not exist, or a pattern that matches no
    file, is returned as it is, so that the caller reports it in its place instead of losing it.

    Raises:
        UnreadableImageError: a folder may not be listed.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            try:
                matches = sorted(_images_in(path, recursive))
            except OSError as error:
                raise UnreadableImageError(
                    f"{path}: cannot be listed ({error.strerror})"
                ) from error
        elif not path.exists() and glob.has_magic(str(item)):
            files = map(Path, glob.iglob(str(item), recursive=True))  # noqa: PTH207
            matches = sorted(file for file in files if file.is_file()) or [path]
        else:
            matches = [path]
        found.update(dict.fromkeys(matches))
    return list(found)


def _images_in(folder: Path, recursive: bool) -> Iterable[Path]:
    for path in folder.rglob("*") if recursive else folder.iterdir():
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            yield path


def open_rgb(source: ImageSource, at_least: int | None = None) -> Image.Image:
    """Decode an image to RGB, upright, first frame, transparency over white.

    Args:
        source: path, encoded bytes, binary file object or PIL image.
        at_least: where the format allows (JPEG), decode at the smallest scale whose shorter side
            is still this many pixels. Faster; the result may be larger, never smaller than asked
            unless the image is.

    Returns:
        An RGB image. 16-bit grey is scaled to 8 bits, CMYK and palettes are converted, and the
        EXIF orientation is applied.

    Raises:
        UnreadableImageError: missing, empty, damaged or truncated file, no image, or more than
            `MAX_PIXELS` pixels.
    """
    name = image_name(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Kept by no name here, so that _to_rgb frees what it converts.
            return _to_rgb(_sized(_open(source), name, at_least))
    except UnreadableImageError:
        raise
    except FileNotFoundError:
        raise UnreadableImageError(f"{name}: no such file") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(
            f"{name}: more pixels than the limit of {MAX_PIXELS:,}; scale the image down first"
        ) from None
    except Image.UnidentifiedImageError:
        raise UnreadableImageError(f"{name}: not an image, or of no supported format") from None
    # Pillow's decoders raise many kinds of exception on damaged data.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, TypeError) as e:
        raise UnreadableImageError(f"{name}: cannot be decoded ({e})") from e


def image_name(source: ImageSource) -> str:
    """What to call an image in answers and errors: its path, or ``image`` where it has none."""
    if isinstance(source, str | Path):
        return str(source)
    return str(getattr(source, "filename", None) or getattr(source, "name", None) or "image")


def _open(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, bytes):
        return Image.open(io.BytesIO(source))
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise UnreadableImageError(f"{path}: is a folder, not an image")
        if path.exists() and path.stat().st_size == 0:
            raise UnreadableImageError(f"{path}: the file is empty (0 bytes)")
        return Image.open(path)
    return Image.open(source)


def _sized(image: Image.Image, name: str, at_least: int | None) -> Image.Image:
    """The image, still undecoded, if it is not too large; a JPEG set to decode smaller."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{name}: {width} x {height} pixels are more than the limit of {MAX_PIXELS:,}; "
            "scale the image down first"
        )
    if at_least is not None and image.format == "JPEG":
        scale = at_least / min(width, height)
        image.draft("RGB", (int(width * scale), int(height * scale)))
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert with as few copies as can be: at `MAX_PIXELS` each takes 0.4 GB."""
    image.seek(0)
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        image = image.convert("I").point(_TO_EIGHT_BITS, "L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white
