"""Texts in the lowest bits of pixels: all four marks, and no decoding where there is none."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.reading import making
from tests.reading.making import A1111
from unprompt.reading import read
from unprompt.reading import stealth_pixels as module

FOX = "a red fox, <lora:add_detail:0.8>"
MARKS = [b"stealth_pnginfo", b"stealth_pngcomp", b"stealth_rgbinfo", b"stealth_rgbcomp"]


def hidden(mark: bytes, message: str = A1111, size: tuple[int, int] = (70, 64)) -> Image.Image:
    data = message.encode()
    return making.hide(gzip.compress(data) if mark.endswith(b"comp") else data, mark, size)


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("size", [(70, 64), (9, 400), (400, 9), (64, 70)])
def test_every_mark_in_every_shape(mark: bytes, size: tuple[int, int]) -> None:
    image = hidden(mark, size=size)
    for source in (making.encoded(image), image):
        reading = read(source)
        assert reading is not None
        assert reading.prompt == FOX
        assert reading.where[0].startswith("stealth")


@pytest.mark.parametrize("filtered", range(5))
def test_every_png_filter_is_undone_in_the_first_column(filtered: int) -> None:
    image = hidden(b"stealth_pnginfo", size=(40, 100))
    rows = [image.crop((0, y, 40, y + 1)).tobytes() for y in range(100)]
    packed = b"".join(
        bytes([filtered]) + _filter(row, above, filtered)
        for row, above in zip(rows, [bytes(160), *rows[:-1]], strict=True)
    )
    header = struct.pack(">IIBBBBB", 40, 100, 8, 6, 0, 0, 0)
    data = zlib.compress(packed)
    parts = [data[i : i + 100] for i in range(0, len(data), 100)]
    chunks = [making.chunk(b"IDAT", part) for part in parts]
    file = b"".join(
        [b"\x89PNG\r\n\x1a\n", making.chunk(b"IHDR", header), *chunks, making.chunk(b"IEND", b"")]
    )
    reading = read(file)
    assert reading is not None
    assert reading.prompt == FOX


def _filter(row: bytes, above: bytes, kind: int) -> bytes:
    filtered = bytearray()
    for at, value in enumerate(row):
        left = row[at - 4] if at >= 4 else 0
        up = above[at]
        corner = above[at - 4] if at >= 4 else 0
        guess = left + up - corner
        distances = [abs(guess - left), abs(guess - up), abs(guess - corner)]
        nearest = (left, up, corner)[distances.index(min(distances))]
        predicted = (0, left, up, (left + up) // 2, nearest)[kind]
        filtered.append((value - predicted) & 255)
    return bytes(filtered)


def test_novelai_hides_its_json() -> None:
    details = json.dumps({"prompt": "a fox", "uc": "dog", "seed": 7})
    message = json.dumps({"Software": "NovelAI", "Source": "V3", "Comment": details})
    reading = read(making.encoded(hidden(b"stealth_pngcomp", message)))
    assert reading is not None
    assert (reading.generator, reading.prompt, reading.negative_prompt) == (
        "NovelAI",
        "a fox",
        "dog",
    )


def test_lossless_webp() -> None:
    data = making.encoded(hidden(b"stealth_pngcomp"), "WEBP", lossless=True, exact=True)
    reading = read(data)
    assert reading is not None
    assert reading.prompt == FOX


def test_a_header_text_comes_first() -> None:
    data = making.png(making.text("parameters", "words"), image=hidden(b"stealth_pnginfo"))
    reading = read(data)
    assert reading is not None
    assert reading.prompt == "words"


def assert_told(data: bytes) -> None:
    """Nothing is read, and a problem says why."""
    reading = read(data)
    assert reading is not None
    assert reading.prompt is None
    assert reading.problems


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, 64 * 64 * 8])
def test_a_length_beyond_the_image_is_refused_at_once(length: int) -> None:
    image = making.hide(b"", b"stealth_pnginfo")
    bits = f"{length:032b}"
    pixels = image.load()
    for offset, bit in enumerate(bits):
        x, y = divmod(120 + offset, 64)
        pixels[x, y] = (*pixels[x, y][:3], 254 | int(bit))
    assert_told(making.encoded(image))


def test_damaged_and_bursting_texts_are_refused() -> None:
    assert_told(making.encoded(making.hide(b"no gzip", b"stealth_pngcomp")))
    bomb = gzip.compress(bytes(40 << 20))
    assert_told(making.encoded(making.hide(bomb, b"stealth_pngcomp", (800, 800))))


def test_pixels_are_decoded_only_behind_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    plain = [
        making.encoded(Image.new("RGBA", (200, 200), "teal")),
        making.encoded(Image.effect_noise((200, 200), 40).convert("RGB")),
        making.encoded(Image.new("L", (200, 200))),
        making.encoded(Image.new("LA", (200, 200))),
        making.encoded(Image.new("P", (200, 200))),
    ]
    monkeypatch.setattr(module.Image, "open", refuse)
    for data in plain:
        assert read(data) is None


@pytest.mark.parametrize("keep", [30, 45, 60, 100])
def test_cut_files(keep: int) -> None:
    reading = read(making.encoded(hidden(b"stealth_pnginfo"))[:keep])
    assert reading is None or (reading.prompt is None and reading.problems)


def test_images_too_large_to_decode_are_left(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + making.chunk(b"IHDR", header) + making.chunk(b"IDAT", b"x" * 50)
    assert read(io.BytesIO(data)) is None


def test_undecodable_pixels_are_a_problem_that_reads_the_same_each_time() -> None:
    ai = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    packet = making.xmp(f'Iptc4xmpExt:DigitalSourceType="{ai}"')
    chunk = b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) & 1)
    reading = read(b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk)
    assert reading is not None
    assert len(reading.problems) == 1
    assert "cannot be decoded" in reading.problems[0]
    assert "object at" not in reading.problems[0]
