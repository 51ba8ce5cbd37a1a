"""Search for image files in folders, and decoding of images to RGB."""

from __future__ import annotations

import glob
import io
import os
import warnings
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import IO

from PIL import ExifTags, Image, ImageOps

from unprompt.errors import UnpromptError, UnreadableImageError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
).union((".jxl", ".jfif", ".jpe", ".apng"))
"""Endings of image files in a folder search; a file that the user names may have any ending."""
VIDEO_SUFFIXES = frozenset((".mp4", ".webm", ".mov"))
"""Endings of video files. A folder search yields them too, because their prompts can be read."""
_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)

_HELD_NAMES = 1 << 14
"""Names of a folder that are in memory at a time; a larger folder is listed several times."""

MAX_PIXELS = 100_000_000
"""Larger images are refused before decoding; one of this size takes up to 0.95 GB of memory."""

_TO_EIGHT_BITS = [round(value / 257) for value in range(65536)]

ImageSource = str | Path | bytes | IO[bytes] | Image.Image


def no_images_error(inputs: Iterable[str | Path], recursive: bool) -> UnpromptError:
    """The error for inputs in which `find_images` finds no image."""
    hint = "" if recursive else "; --recursive searches sub-folders too"
    return UnpromptError(f"{', '.join(map(str, inputs))}: no image found{hint}")


def find_images(inputs: Iterable[str | Path], recursive: bool = False) -> Iterator[Path]:
    """Yield the image paths of files, folders and glob patterns, each once, in a stable order.

    From a folder it yields the files with an image suffix, sorted by name. ``recursive`` adds
    sub-folders in the same order, except hidden ones and symbolic links. A path that does not
    exist, a pattern that matches no file and a folder that cannot be listed are yielded too, so
    that the caller can report them.

    Folders are read lazily, so memory does not grow with their number of images. Named files and
    files that match a pattern are held in memory.
    """
    named: set[Path] = set()
    walked: set[Path] = set()
    for item in inputs:
        path = Path(item)
        if is_folder := _file_type(path) == S_IFDIR:
            matches: Iterable[Path] = _walk(path, recursive)
        elif not _file_type(path) and glob.has_magic(str(item)):
            files = map(Path, glob.iglob(str(item), recursive=True))  # noqa: PTH207
            matches = sorted(file for file in files if _file_type(file) == S_IFREG) or [path]
        else:
            matches = [path]
        for match in matches:
            if match not in named and not _is_from(match, walked, recursive):
                yield match
                if not is_folder:
                    named.add(match)
        if is_folder:
            walked.add(path)


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield the images of a folder and its sub-folders in the order of their names."""
    levels = [(folder, _names(folder, recursive))]
    while levels:
        folder, names = levels[-1]
        try:
            name = next(names, None)
        except OSError:  # the caller reports it when it opens the folder
            yield folder
            name = None
        if name is None:
            levels.pop()
            continue
        path = folder / name
        if name.lower().endswith(_SUFFIXES) and not (recursive and _file_type(path) == S_IFDIR):
            yield path
        else:
            levels.append((path, _names(path, recursive)))


def _names(folder: Path, recursive: bool) -> Iterator[str]:
    """Yield the sorted names of a folder's images, and of its sub-folders if ``recursive``."""
    after = ""
    while names := _names_after(after, folder, recursive):
        yield from names
        if len(names) < _HELD_NAMES:
            return
        after = names[-1]


def _names_after(after: str, folder: Path, recursive: bool) -> list[str]:
    """The next `_HELD_NAMES` names of a folder after ``after``, sorted."""
    names: list[str] = []
    last = None
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name <= after or (last is not None and name > last) or not _counts(entry, recursive):
                continue
            names.append(name)
            if len(names) == 2 * _HELD_NAMES:
                names.sort()
                del names[_HELD_NAMES:]
                last = names[-1]
    names.sort()
    return names[:_HELD_NAMES]


def _counts(entry: os.DirEntry[str], recursive: bool) -> bool:
    if entry.name.startswith("."):
        return False
    if entry.name.lower().endswith(_SUFFIXES):
        if entry.is_symlink():
            return _file_type(Path(entry.path)) == S_IFREG
        if entry.is_file():
            return True
    return recursive and entry.is_dir(follow_symlinks=False)


def _is_from(path: Path, walked: Container[Path], recursive: bool) -> bool:
    """Whether an image has already been yielded from one of the walked folders."""
    between = [path]
    for parent in path.parents if recursive else [path.parent]:
        if parent in walked:
            return (
                path.name.lower().endswith(_SUFFIXES)
                and _file_type(path) == S_IFREG
                and not any(part.name.startswith(".") for part in between)
                and not any(part.is_symlink() for part in between[1:])
            )
        between.append(parent)
    return False


def _file_type(path: Path) -> int:
    """`S_IFDIR`, `S_IFREG`, ...; 0 if the path does not exist or is not accessible."""
    try:
        return S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return 0


def why_no_image(folder: Path) -> str:
    """Text for errors: the path is a folder, perhaps one that cannot be listed."""
    try:
        with os.scandir(folder):
            return "is a folder, not an image"
    except OSError as error:
        return f"is a folder that cannot be listed ({error.strerror})"


def open_rgb(source: ImageSource, at_least: int | None = None) -> Image.Image:
    """Decode an image to RGB, upright, first frame, transparency over white.

    Args:
        source: path, encoded bytes, binary file object or PIL image.
        at_least: decode JPEG faster, at the smallest scale whose shorter side has at least this
            many pixels. Other formats keep their size.

    Returns:
        An RGB image. 16-bit grey is scaled to 8 bits, CMYK and palettes are converted, and the
        EXIF orientation is applied.

    Raises:
        UnreadableImageError: the file is missing, empty, damaged, truncated or not an image, or
            it has more than `MAX_PIXELS` pixels.
    """
    name = image_name(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # No variable holds the image here, so that _to_rgb can free it.
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
        if _is_video(source):
            raise UnreadableImageError(
                f"{name}: a video; prompts can be read from videos, but not predicted"
            ) from None
        raise UnreadableImageError(
            f"{name}: not an image, or its format is not supported"
        ) from None
    # Pillow's decoders raise many kinds of exception on damaged data.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, TypeError) as e:
        raise UnreadableImageError(f"{name}: cannot be decoded ({e})") from e


def pixels_to_decode(source: ImageSource, at_least: int | None = None) -> int:
    """Pixels that `open_rgb` would decode, by the file's header; 0 for a file that it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = _sized(_open(source), "", at_least).size
    except Exception:  # Pillow raises many kinds; `open_rgb` will state which
        return 0
    return width * height


def _is_video(source: ImageSource) -> bool:
    """Whether a file starts like MP4, MOV, WebM or Matroska."""
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                head = file.read(12)
        elif isinstance(source, bytes):
            head = source[:12]
        elif isinstance(source, Image.Image):
            return False
        else:
            source.seek(0)
            head = source.read(12)
    except (OSError, ValueError):
        return False
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") or head[:4] == b"\x1a\x45\xdf\xa3"


def image_name(source: ImageSource) -> str:
    """The name of an image in answers and errors: its path, or ``image`` if it has none."""
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
            raise UnreadableImageError(f"{path}: {why_no_image(path)}")
        if path.exists() and path.stat().st_size == 0:
            raise UnreadableImageError(f"{path}: the file is empty (0 bytes)")
        return Image.open(path)
    return Image.open(source)


def _sized(image: Image.Image, name: str, at_least: int | None) -> Image.Image:
    """Check the size of an undecoded image, and set a JPEG to decode smaller."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{name}: {width} x {height} pixels are more than the limit of {MAX_PIXELS:,}; "
            "scale the image down first"
        )
    if at_least is not None and image.format in ("JPEG", "MPO"):  # MPO: of phones
        scale = at_least / min(width, height)
        image.draft("RGB", (int(width * scale), int(height * scale)))
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert with as few copies as possible; at `MAX_PIXELS` each takes 0.4 GB."""
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
