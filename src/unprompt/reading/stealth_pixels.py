"""Read text that is hidden in the lowest bits of the pixels (``stealth_pnginfo``).

The scheme of the sd_webui_stealth_pnginfo extension, also used by NovelAI. The bits run column by
column, one per pixel in alpha or three in RGB: a mark of 15 letters, the number of bits that
follow (32 bits, big-endian), then the text in UTF-8, plain (``info``) or gzip (``comp``).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO

from PIL import Image

from unprompt.images import MAX_PIXELS
from unprompt.reading.containers.container_registry import DECODING_ERRORS
from unprompt.reading.containers.file_window import read_exactly
from unprompt.reading.containers.png import SIGNATURE
from unprompt.reading.image_texts import parse_json
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field, clean

_MARKS = {
    b"stealth_pnginfo": ("alpha", False),
    b"stealth_pngcomp": ("alpha", True),
    b"stealth_rgbinfo": ("RGB", False),
    b"stealth_rgbcomp": ("RGB", True),
}
_MARK_BITS = 15 * 8
_OPENING = f"{int.from_bytes(b'stealth_', 'big'):064b}"
_BITS = bytes(48 + (value & 1) for value in range(256))


def read_stealth(image: IO[bytes] | Image.Image, container: str, limits: Limits) -> Iterator[Field]:
    """Yield the texts hidden in the pixels; a hidden JSON object also gives each key as a field.

    For a PNG the first bits are checked before decoding. This needs only its first rows, and
    rules out nearly every image without a hidden text.
    """
    if not isinstance(image, Image.Image):
        try:
            if container == "PNG" and not _may_hide(image):
                return
            image.seek(0)
            with Image.open(image) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    limits.note(f"more than {MAX_PIXELS:,} pixels: not searched for hidden text")
                    return
                if container == "WebP" and opened.mode != "RGBA":
                    return
                opened.load()
                yield from _read_pixels(opened, limits)
        except Image.UnidentifiedImageError:  # its message is the address of the file object
            limits.note("the pixels cannot be decoded (unknown to Pillow)")
        except DECODING_ERRORS as error:
            if isinstance(error, OSError) and error.errno is not None:
                limits.stop(error)
            else:
                limits.note(f"the pixels cannot be decoded ({error})")
        return
    yield from _read_pixels(image, limits)


def _read_pixels(image: Image.Image, limits: Limits) -> Iterator[Field]:
    channels = {"RGBA": [("A", "alpha"), ("RGB", "RGB")], "RGB": [("RGB", "RGB")]}
    channels["LA"] = [("A", "alpha")]
    for bands, name in channels.get(image.mode, []):
        start = _bits(image, bands, 0, _MARK_BITS + 32)
        mark = _MARKS.get(int(start[:_MARK_BITS] or "0", 2).to_bytes(15, "big"))
        if mark is None or mark[0] != name or len(start) < _MARK_BITS + 32:
            continue
        length = int(start[_MARK_BITS:], 2)
        left = image.width * image.height * len(bands) - _MARK_BITS - 32
        if length > left or length // 8 > MAX_TEXT:
            limits.note(f"stealth {name}: states {length:,} bits, but only {left:,} are left")
            continue
        bits = _bits(image, bands, _MARK_BITS + 32, length - length % 8)
        data = int(bits or "0", 2).to_bytes(len(bits) // 8, "big")
        yield from _decode(data, mark[1], f"stealth {name}", limits)
        return


def _bits(image: Image.Image, bands: str, start: int, count: int) -> str:
    """The lowest bits ``start`` to ``start + count``; columns run left to right, top to bottom."""
    per_column = image.height * len(bands)
    first, last = start // per_column, min(image.width, -(-(start + count) // per_column))
    columns = image.crop((first, 0, last, image.height))
    columns = columns.getchannel("A") if bands == "A" else columns.convert("RGB")
    data = columns.transpose(Image.Transpose.TRANSPOSE).tobytes()
    skipped = start - first * per_column
    return data[skipped : skipped + count].translate(_BITS).decode("ascii")


def _decode(data: bytes, compressed: bool, place: str, limits: Limits) -> Iterator[Field]:
    if compressed:
        stream = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
        try:
            data = stream.decompress(data, MAX_TEXT + 1)
        except zlib.error as error:
            limits.note(f"{place}: damaged compressed text ({error})")
            return
    if not limits.allows(len(data), place):
        return
    text = data.decode("utf-8", "replace").rstrip("\0")
    value = parse_json(text)
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str):
                yield Field(place, clean(key), clean(item))
    yield Field(place, "parameters", text)


def _may_hide(file: IO[bytes]) -> bool:
    """Whether the first column of a PNG can start with the mark of a hidden text.

    In the first column every PNG filter is simple: the byte itself, or the byte plus the byte
    above (Average: plus half of it). So only this column is computed.
    """
    file.seek(len(SIGNATURE))
    header = read_exactly(file, 25)
    if len(header) < 25 or header[4:8] != b"IHDR":
        return False
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", header, 8)
    bands = {2: 3, 4: 2, 6: 4}.get(colour)
    if bands is None or depth != 8 or not 0 < width * height <= MAX_PIXELS:
        return False
    if interlaced or height < len(_OPENING):
        return True
    rows = _rows(file, 1 + width * bands)
    above = bytes(bands)
    alpha, rgb = "", ""
    for row in rows:
        if row[0] > 4:
            return False
        shift = 1 if row[0] == 3 else 0
        if row[0] in (2, 3, 4):
            above = bytes(
                (value + (up >> shift)) & 255 for value, up in zip(row[1:], above, strict=False)
            )
        else:
            above = row[1:]
        bits = above.translate(_BITS).decode("ascii")
        alpha += bits[-1]
        rgb += bits[:3] if bands > 2 else ""
        hidden = bands in (2, 4) and _OPENING.startswith(alpha[:64])
        if not hidden and not (bands > 2 and _OPENING.startswith(rgb[:64])):
            return False
        if len(alpha) >= 64:
            return True
    return True


def _rows(file: IO[bytes], row_size: int) -> Iterator[bytes]:
    """Yield filter byte and first pixel of each row; decompress only as far as needed."""
    first = min(5, row_size)
    stream, buffer = zlib.decompressobj(), b""
    file.seek(len(SIGNATURE))
    while len(header := read_exactly(file, 8)) == 8:
        length, chunk_type = struct.unpack(">I4s", header)
        if chunk_type != b"IDAT":
            if chunk_type == b"IEND":
                return
            file.seek(length + 4, 1)
            continue
        left = length
        while left:
            data = file.read(min(left, 16384))
            if not data:
                return
            left -= len(data)
            while data:
                try:
                    buffer += stream.decompress(data, 1 << 16)
                except zlib.error:
                    return
                while len(buffer) >= row_size:
                    yield buffer[:first]
                    buffer = buffer[row_size:]
                data = stream.unconsumed_tail
        file.seek(4, 1)
