"""Choose the reader of a file by its signature; read other formats and PIL images with Pillow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from unprompt.reading.containers import gif, jpeg, matroska, png
from unprompt.reading.containers.charset import decode, decode_guessed
from unprompt.reading.containers.exif import read_exif, read_tiff
from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.isobmff import read_isobmff
from unprompt.reading.containers.mp4 import read_mp4
from unprompt.reading.containers.svg import is_svg, read_svg
from unprompt.reading.containers.webp import read_webp
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.limits import Limits
from unprompt.reading.result import Field

Reader = Callable[[Window, Limits], Iterator[Field]]

DECODING_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError),
    *(AttributeError, RuntimeError, MemoryError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""What the parsers and decoders of Pillow raise on damaged data."""

_JXL_STREAM = b"\xff\x0a"
_JXL = b"\0\0\0\x0cJXL \r\n\x87\n"
_BRANDS = frozenset((b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1"))


def find_reader(head: bytes) -> tuple[str, Reader] | None:
    """The format whose signature is in ``head`` (32 bytes or more), and its reader."""
    if head.startswith(png.SIGNATURE):
        return "PNG", png.read_png
    if head.startswith(jpeg.SIGNATURE):
        return "JPEG", jpeg.read_jpeg
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP", read_webp
    if head[4:8] == b"ftyp":
        if head[8:12] in _BRANDS:
            return "AVIF" if head[8:11] == b"avi" else "HEIC", read_isobmff
        return "MOV" if head[8:10] == b"qt" else "MP4", read_mp4
    if head.startswith(_JXL):
        return "JPEG XL", read_isobmff
    if head.startswith(_JXL_STREAM):
        return "JPEG XL", lambda *_: iter(())  # pixels only
    if head.startswith(gif.SIGNATURES):
        return "GIF", gif.read_gif
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF", read_tiff
    if head.startswith(matroska.SIGNATURE):
        return "WebM", matroska.read_matroska
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "MOV", read_mp4
    if is_svg(head):
        return "SVG", read_svg
    return None


def read_pillow(image: Image.Image, limits: Limits) -> Iterator[Field]:
    """Yield the texts that Pillow keeps of an image."""
    container = image.format or "image"
    for name, value in list(image.info.items()):
        if not isinstance(name, str):
            continue
        if name == "exif" and isinstance(value, bytes):
            yield from read_exif(value, limits)
        elif name in ("xmp", "XML:com.adobe.xmp") and isinstance(value, bytes | str):
            packet = value if isinstance(value, bytes) else value.encode("utf-8", "replace")
            yield from read_xmp(packet, limits)
        elif isinstance(value, str) and limits.allows(len(value), container, name):
            yield Field(f"{container} text", name, _undo_latin1(value).rstrip("\0"))
        elif (
            isinstance(value, bytes)
            and name == "comment"
            and limits.allows(len(value), container, name)
        ):
            yield Field(f"{container} COM", name, decode_guessed(value))
    if container in ("TIFF", "MPO") or "exif" not in image.info:
        block = image.getexif().tobytes()
        if len(block) > 14:
            yield from read_exif(block, limits)


def _undo_latin1(text: str) -> str:
    """Pillow decodes every tEXt as Latin-1; decode it again if it was UTF-8."""
    try:
        return decode(text.encode("latin-1"))
    except UnicodeEncodeError:
        return text


def read_other(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the texts of any other format that Pillow can open."""
    file.file.seek(0)
    with Image.open(file.file) as image:
        yield from read_pillow(image, limits)
