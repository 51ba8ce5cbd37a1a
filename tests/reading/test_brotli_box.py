"""Compressed boxes of JPEG XL: real Brotli streams, bombs, damage, and no package brotli."""

from __future__ import annotations

import struct
import sys
import tracemalloc

import pytest

from tests.reading import containers_made as made
from tests.reading import making
from unprompt.reading import read
from unprompt.reading.containers.brotli_box import decompress
from unprompt.reading.limits import MAX_TEXT, Limits

brotli = pytest.importorskip("brotli")
EXIF = making.comment(b"UNICODE\0" + made.TEXT.encode("utf-16-le"))
PACKET = making.xmp(elements=f"<dc:description>{made.TEXT}</dc:description>")


def packed_box(kind: bytes, content: bytes, quality: int = 11) -> bytes:
    return making.box(b"brob", kind + brotli.compress(content, quality=quality))


@pytest.mark.parametrize("quality", [0, 5, 11])
@pytest.mark.parametrize(
    ("kind", "content"),
    [(b"Exif", bytes(4) + EXIF), (b"Exif", struct.pack(">I", 6) + b"Exif\0\0" + EXIF),
     (b"xml ", PACKET)],
    ids=["Exif", "Exif after an offset", "XMP"],
)  # fmt: skip
def test_prompt_in_a_compressed_box(kind: bytes, content: bytes, quality: int) -> None:
    reading = read(made.jpeg_xl(packed_box(kind, content, quality)))
    assert reading is not None
    assert (reading.prompt, reading.settings.seed) == (made.FOX, 5)
    assert not reading.problems


def test_declaration_in_a_compressed_box() -> None:
    source = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    actions = [{"action": "c2pa.created", "digitalSourceType": source}]
    store = making.manifest({"claim_generator": "Painter/1"}, actions)
    reading = read(made.jpeg_xl(packed_box(b"jumb", store[8:])))
    assert reading is not None
    assert reading.declares_ai


def test_a_bomb_is_told_and_not_unpacked() -> None:
    bomb = made.jpeg_xl(packed_box(b"xml ", bytes(MAX_TEXT * 32), quality=5))
    assert len(bomb) < 1000
    tracemalloc.start()
    reading = read(bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 * MAX_TEXT
    assert reading is not None
    assert reading.prompt is None
    assert reading.problems == ("JPEG XL: more than 8 MiB of metadata; skipped",)


def test_a_text_of_the_largest_size_is_read() -> None:
    limits = Limits()
    assert decompress(brotli.compress(bytes(MAX_TEXT), quality=1), limits) == bytes(MAX_TEXT)
    assert not limits.problems


def test_damaged_and_cut_streams_are_told() -> None:
    packed = brotli.compress(bytes(4) + EXIF)
    damaged, cut = Limits(), Limits()
    assert decompress(packed[:40] + b"\xff" * 40 + packed[80:], damaged) is None
    assert "damaged" in damaged.problems[0]
    assert len(decompress(packed[:-20], cut) or b"") < len(EXIF)
    assert "ends inside" in cut.problems[0]


def test_without_the_package_the_file_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    reading = read(made.jpeg_xl(packed_box(b"Exif", bytes(4) + EXIF)))
    assert reading is not None
    assert reading.prompt is None
    assert "pip install 'unprompt[read]'" in reading.problems[0]
    limits = Limits()  # a stream that stores its content as it is needs no package
    assert decompress(made.stored_brotli(b"x" * 5000), limits) == b"x" * 5000
    assert not limits.problems
