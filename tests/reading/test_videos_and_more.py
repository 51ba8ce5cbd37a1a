"""Prompts in videos, SVG, GIF, TIFF, JPEG XL and APNG."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from tests.reading import containers_made as made
from tests.reading import making
from unprompt.errors import UnreadableImageError
from unprompt.images import find_images, open_rgb
from unprompt.reading import read, read_fields
from unprompt.reading.limits import MAX_TEXT

FILES = made.made_files()


@pytest.mark.parametrize(
    "data",
    [
        made.mp4(made.keyed(PARAMETERS=made.TEXT)),
        made.mp4(made.keyed(**{"com.apple.quicktime.description": made.TEXT})),
        made.mp4(made.free_form("com.apple.quicktime.comment", made.TEXT)),
        made.mp4(making.box(b"trak", making.box(b"udta", made.keyed(prompt=made.GRAPH)))),
        made.mp4(made.itunes(nam=made.TEXT)),
        made.mp4(making.box(b"udta", made.full_box(b"dscp", b"\x15\xc7" + made.TEXT.encode()))),
        made.matroska(**{"COM.APPLE.QUICKTIME.COMMENT": made.GRAPH}),
        made.matroska(DESCRIPTION=made.TEXT),
        made.svg(made.TEXT, '<?xml version="1.0"?>').replace(b"<svg xmlns", b"<s:svg xmlns:s")
        .replace(b"metadata>", b"s:metadata>").replace(b"</svg", b"</s:svg"),
        made.svg(made.TEXT).decode().encode("utf-16"),
    ],
    ids=["capitals", "Apple", "free form", "track", "title", "3GP", "remuxed", "WebM",
         "prefixed SVG", "UTF-16 SVG"],
)  # fmt: skip
def test_other_names_and_places(data: bytes) -> None:
    reading = read(data)
    assert reading is not None
    assert (reading.prompt, reading.settings.seed) == (made.FOX, 5)


@pytest.mark.parametrize("number", range(len(FILES)))
def test_every_container(number: int) -> None:
    reading = read(FILES[number])
    assert reading is not None
    assert reading.prompt == made.FOX
    assert reading.negative_prompt == "blurry"
    assert reading.settings.seed == 5
    assert not reading.problems


def test_texts_of_another_page_of_a_tiff() -> None:
    pages = struct.pack("<HI", 0, 14), b"II*\0" + struct.pack("<I", 8)
    text = made.TEXT.encode() + b"\0"
    entry = struct.pack("<HHII", 0x010E, 2, len(text), 14 + 2 + 12 + 4)
    data = pages[1] + pages[0] + struct.pack("<H", 1) + entry + struct.pack("<I", 0) + text
    reading = read(data)
    assert reading is not None
    assert reading.prompt == made.FOX


@pytest.mark.parametrize(
    "data",
    [
        made.mp4(*[made.itunes(cmt="x")] * 3000),
        made.mp4(made.keyed(prompt="x" * (MAX_TEXT + 1))),
        made.matroska(PROMPT="x" * (MAX_TEXT + 1)),
        made.element(0x1A45DFA3, b"") + made.element(0x18538067, made.element(0xEC, b"") * 210_000),
        made.gif(comment=b"x" * (MAX_TEXT + 1)),
        made.svg("x" * MAX_TEXT),
        made.svg("x", '<!DOCTYPE svg [<!ENTITY a "b">]>'),
        made.tiff(tags={0x010E: b"x" * (MAX_TEXT + 1)}),
    ],
    ids=["many tags", "MP4 text", "WebM text", "WebM parts", "GIF", "SVG", "SVG entities", "TIFF"],
)
def test_limits_are_told(data: bytes) -> None:
    started = time.thread_time()
    reading = read(data)
    assert time.thread_time() - started < 3
    assert reading is not None
    assert reading.problems
    assert reading.prompt is None


def test_boxes_in_boxes_end() -> None:
    box = b""
    for _ in range(3000):
        box = making.box(b"moov", box)
    assert read(making.box(b"ftyp", b"isom\0\0\0\0") + box) is None
    nested = b""
    for _ in range(3000):
        nested = made.element(0x67C8, nested)
    assert read_fields(made.element(0x1A45DFA3, b"") + made.element(0x1254C367, nested)) == ()


@pytest.mark.parametrize("number", range(len(FILES)))
def test_cut_files(number: int) -> None:
    data = FILES[number]
    for keep in range(1, len(data), max(1, len(data) // 60)):
        try:
            reading = read(data[:keep])
        except UnreadableImageError:
            continue
        assert reading is None or reading.prompt in (None, "", made.FOX)


def test_ordinary_videos_and_drawings_have_no_prompt() -> None:
    for data in (
        made.mp4(made.itunes(too="Lavf62.12", nam="My holiday")),
        made.matroska(ENCODER="Lavf62", TITLE="My holiday"),
        made.svg("An icon", cdata=False),
        made.gif(comment=b"Created with GIMP"),
        made.tiff(tags={0x010E: b"A mountain\0", 0x0131: b"ImageJ\0"}),
        b"\xff\x0a" + bytes(100),
    ):
        reading = read(data)
        assert reading is None or reading.prompt is None


def test_folders_are_searched_for_more_suffixes(tmp_path: Path) -> None:
    names = {"a.jxl", "b.jfif", "c.jpe", "d.apng", "e.MP4", "f.webm", "g.mov"}
    for name in (*names, "h.txt", "i.mp3"):
        (tmp_path / name).touch()
    assert {path.name for path in find_images([tmp_path])} == names


@pytest.mark.parametrize("number", [0, 6])
def test_videos_are_read_not_predicted(tmp_path: Path, number: int) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(FILES[number])
    with pytest.raises(UnreadableImageError, match="a video"):
        open_rgb(path)
    with pytest.raises(UnreadableImageError, match="a video"):
        open_rgb(FILES[number])
