"""Every place in every container where a prompt may stand."""

from __future__ import annotations

import binascii
import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.reading import making
from tests.reading.making import A1111
from unprompt.errors import UnreadableImageError
from unprompt.reading import read, read_fields

FOX = "a red fox, <lora:add_detail:0.8>"
WIDE = A1111.replace("fox", "狐 🦊 naïve")


def prompt_of(data: bytes) -> str | None:
    reading = read(data)
    return reading.prompt if reading else None


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (making.png(making.text("parameters", A1111)), "PNG tEXt parameters"),
        (making.png(making.ztext("parameters", A1111)), "PNG zTXt parameters"),
        (making.png(making.itext("parameters", A1111)), "PNG iTXt parameters"),
        (making.png(making.itext("parameters", A1111, True)), "PNG iTXt parameters"),
        (making.png(late=making.text("parameters", A1111)), "PNG tEXt parameters"),
        (
            making.png(making.chunk(b"eXIf", making.comment(b"ASCII\0\0\0" + A1111.encode()))),
            "EXIF UserComment",
        ),
        (making.jpeg_exif(making.comment(b"ASCII\0\0\0" + A1111.encode())), "EXIF UserComment"),
        (making.jpeg((0xFE, A1111.encode())), "JPEG COM comment"),
        (making.webp(EXIF=making.comment(b"ASCII\0\0\0" + A1111.encode())), "EXIF UserComment"),
        (
            making.webp(EXIF=b"Exif\0\0" + making.comment(A1111.encode(), ">")),
            "EXIF UserComment",
        ),
    ],
)
def test_a_prompt_is_found_in_each_place(data: bytes, where: str) -> None:
    reading = read(data)
    assert reading is not None
    assert reading.prompt == FOX
    assert reading.where == (where,)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tiff", ["<", ">"])
def test_utf16_is_read_in_either_order_whatever_the_header_says(order: str, tiff: str) -> None:
    encoding = "utf-16-le" if order == "<" else "utf-16-be"
    data = making.jpeg_exif(making.comment(b"UNICODE\0" + WIDE.encode(encoding), tiff))
    assert prompt_of(data) == FOX.replace("fox", "狐 🦊 naïve")


@pytest.mark.parametrize(
    "value",
    [
        b"UNICODE\0" + WIDE.encode("utf-16"),  # with a BOM
        b"UNICODE\0" + WIDE.encode(),
        b"ASCII\0\0\0" + WIDE.encode(),
        b"\0" * 8 + WIDE.encode(),
        WIDE.encode(),
        WIDE.encode("utf-16-le"),
        b"UNICODE\0" + WIDE.encode("utf-16-be") + b"\0\0\0",
        b"ASCII\0\0\0" + WIDE.encode() + b"\0" * 500,
    ],
)
def test_a_user_comment_is_read_whatever_its_prefix_claims(value: bytes) -> None:
    assert prompt_of(making.jpeg_exif(making.comment(value))) == FOX.replace("fox", "狐 🦊 naïve")


@pytest.mark.parametrize("encoding", ["shift_jis", "iso2022_jp", "euc_jp", "utf-8"])
def test_japanese_user_comments(encoding: str) -> None:
    words = A1111.replace("fox", "赤い狐と山").encode(encoding)
    data = making.jpeg_exif(making.comment(b"JIS\0\0\0\0\0" + words))
    assert prompt_of(data) == FOX.replace("fox", "赤い狐と山")


def test_text_that_is_not_utf8_is_latin1_in_text_chunks_and_replaced_in_itxt() -> None:
    bad = A1111.encode().replace(b"fox", b"f\xfex")
    assert prompt_of(making.png(making.text("parameters", bad))) == FOX.replace("fox", "fþx")
    assert prompt_of(making.png(making.itext("parameters", bad))) == FOX.replace("fox", "f\ufffdx")


def test_a_wrong_check_sum_does_not_hide_a_prompt() -> None:
    body = b"parameters\0" + A1111.encode()
    assert prompt_of(making.png(making.chunk(b"tEXt", body, crc=1))) == FOX


def test_a_cut_text_counts_only_where_its_prompt_is_whole() -> None:
    whole = making.png(making.text("parameters", A1111))
    after_prompt = whole[: whole.index(b"Steps")]
    inside_prompt = whole[: whole.index(b"lora")]
    assert prompt_of(after_prompt) == FOX
    assert prompt_of(inside_prompt) is None


def test_image_magick_profiles() -> None:
    block = b"Exif\0\0" + making.comment(b"ASCII\0\0\0" + A1111.encode())
    digits = binascii.hexlify(block)
    lines = b"\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    text = b"\nexif\n %8d\n" % len(block) + lines
    assert prompt_of(making.png(making.ztext("Raw profile type exif", text))) == FOX
    assert prompt_of(making.png(making.ztext("Raw profile type exif", b"\nexif\n 8\nxyz"))) is None
    packet = making.xmp(
        elements=f"<exif:UserComment>{A1111}</exif:UserComment>".replace("<lora", "&lt;lora")
    )
    text = b"\nxmp\n %8d\n" % len(packet) + binascii.hexlify(packet)
    assert prompt_of(making.png(making.ztext("Raw profile type xmp", text))) == FOX


@pytest.mark.parametrize("tag", [0x010E, 0x9C9C])
def test_other_exif_texts(tag: int) -> None:
    value = A1111.encode("utf-16-le") if tag == 0x9C9C else A1111.encode()
    assert prompt_of(making.jpeg_exif(making.exif({tag: value + b"\0\0"}))) == FOX


def test_exif_beyond_one_segment_is_joined() -> None:
    text = A1111.replace("a red fox", "a red fox, " + "fur " * 30_000)
    block = making.comment(b"ASCII\0\0\0" + text.encode())
    parts = [(0xE1, b"Exif\0\0" + block[i : i + 60_000]) for i in range(0, len(block), 60_000)]
    found = prompt_of(making.jpeg(*parts))
    assert found is not None
    assert found.count("fur") == 30_000


@pytest.mark.parametrize(
    "between", [b"\xff", b"\xff" * 3, b"\xff\x01", b"\xff\xd0", b"\xff\xff\x01\xff"]
)
def test_fill_bytes_and_markers_without_length_are_passed_over(between: bytes) -> None:
    data = making.jpeg((0xFE, A1111.encode()))
    assert prompt_of(data[:2] + between + data[2:]) == prompt_of(data)


def test_xmp_in_every_container() -> None:
    packet = making.xmp(
        'xmp:CreatorTool="Draw Things"',
        "<dc:description><rdf:Alt><rdf:li>x</rdf:li></rdf:Alt></dc:description>",
    )
    name = b"http://ns.adobe.com/xap/1.0/\0"
    files = [
        making.png(making.itext("XML:com.adobe.xmp", packet)),
        making.jpeg((0xE1, name + packet)),
        making.webp(**{"XMP": packet}),
    ]
    for data in files:
        fields = {field.name: field.text for field in read_fields(data)}
        assert fields["xmp:CreatorTool"] == "Draw Things"
        assert fields["dc:description"] == "x"


def test_extended_xmp_and_iptc_captions() -> None:
    packet = making.xmp(elements="<dc:description>far</dc:description>")
    extension = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32
    parts = [
        (0xE1, extension + struct.pack(">II", len(packet), at) + packet[at : at + 100])
        for at in range(0, len(packet), 100)
    ]
    caption = b"\x1c\x02\x78" + struct.pack(">H", 3) + b"cat"
    parts.append((0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", 8) + caption))
    fields = {str(field): field.text for field in read_fields(making.jpeg(*parts))}
    assert fields["XMP dc:description"] == "far"
    assert fields["IPTC Caption"] == "cat"


def avif(item: bytes, kind: bytes, method: int = 0, extents: int = 1) -> bytes:
    """The box structure of an AVIF with one metadata item; ``method`` 1 keeps it in ``idat``."""
    entry = making.box(b"infe", b"\2\0\0\0" + struct.pack(">HH", 1, 0) + kind + b"\0")
    items = making.box(b"iinf", b"\0\0\0\0" + struct.pack(">H", 1) + entry)
    ftyp = making.box(b"ftyp", b"avif\0\0\0\0avifmif1")

    def meta(offset: int) -> bytes:
        place = struct.pack(">HHHH", 1, method, 0, extents)
        place += struct.pack(">II", offset, len(item)) * extents
        places = making.box(b"iloc", b"\1\0\0\0\x44\0" + struct.pack(">H", 1) + place)
        data = making.box(b"idat", item) if method else b""
        return making.box(b"meta", b"\0\0\0\0" + items + places + data)

    if method:
        return ftyp + meta(0)
    return ftyp + meta(len(ftyp) + len(meta(0)) + 8) + making.box(b"mdat", item)


@pytest.mark.parametrize("method", [0, 1])
def test_heif_items(method: int) -> None:
    block = b"\0\0\0\6Exif\0\0" + making.comment(b"ASCII\0\0\0" + A1111.encode())
    assert prompt_of(avif(block, b"Exif", method)) == FOX
    packet = making.xmp(elements="<dc:description>boat Job ID: 0123-abcd-0123</dc:description>")
    assert prompt_of(avif(packet, b"mime", method)) == "boat"


@pytest.mark.parametrize("method", [0, 1])
def test_an_item_that_repeats_one_extent_fills_no_memory(method: int) -> None:
    data = avif(b"<" * 2**20, b"mime", method, extents=300)
    tracemalloc.start()
    try:
        assert prompt_of(data) is None
        assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    finally:
        tracemalloc.stop()


def test_avif_as_pillow_writes_it() -> None:
    image = Image.new("RGB", (8, 8))
    exif = image.getexif()
    exif[0x010E] = A1111
    assert prompt_of(making.encoded(image, "AVIF", exif=exif)) == FOX


def test_jpeg_xl_boxes() -> None:
    head = b"\0\0\0\x0cJXL \r\n\x87\n" + making.box(b"ftyp", b"jxl \0\0\0\0jxl ")
    block = b"\0\0\0\0" + making.comment(b"ASCII\0\0\0" + A1111.encode())
    assert prompt_of(head + making.box(b"Exif", block)) == FOX


def test_other_formats_come_through_pillow() -> None:
    image = Image.new("RGB", (4, 4))
    assert prompt_of(making.encoded(image, "GIF", comment=A1111.encode())) == FOX
    tiff = making.encoded(image, "TIFF", description=A1111)
    assert prompt_of(tiff) == FOX


def test_every_kind_of_source(tmp_path: Path) -> None:
    data = making.png(making.text("parameters", A1111))
    path = tmp_path / "fox.png"
    path.write_bytes(data)
    file = io.BytesIO(data)
    file.seek(17)

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with path.open("rb") as opened, Image.open(path) as image:
        for source in (path, str(path), data, bytearray(data), file, opened, Pipe(data), image):
            reading = read(source)
            assert reading is not None
            assert reading.prompt == FOX


def test_pillow_images_in_memory() -> None:
    late = making.png(late=making.text("parameters", WIDE))
    for data in (
        late,
        making.jpeg_exif(making.comment(b"UNICODE\0" + WIDE.encode("utf-16-be"))),
        making.encoded(
            Image.new("RGB", (4, 4)),
            "WEBP",
            exif=making.comment(b"UNICODE\0" + WIDE.encode("utf-16-le")),
        ),
        making.jpeg((0xFE, WIDE.encode())),
    ):
        reading = read(Image.open(io.BytesIO(data)))
        assert reading is not None
        assert reading.prompt == FOX.replace("fox", "狐 🦊 naïve")
    assert read(Image.new("RGB", (2, 2))) is None
    cut = Image.open(io.BytesIO(late[:60]))
    assert read(cut) is None


def test_pillow_written_text_keys() -> None:
    info = PngInfo()
    info.add_itxt("parameters", WIDE)
    info.add_text(
        "XML:com.adobe.xmp", making.xmp(elements="<dc:description>d</dc:description>").decode()
    )
    data = making.encoded(Image.new("RGB", (4, 4)), pnginfo=info)
    assert {f.name for f in read_fields(data)} == {"parameters", "dc:description"}
    assert {f.name for f in read_fields(Image.open(io.BytesIO(data)))} == {
        "parameters",
        "dc:description",
    }


@pytest.mark.parametrize("content", [b"", b"no image at all", b"GIF89a", b"BM" + bytes(30)])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"x\.png"):
        read(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="no such file"):
        read(tmp_path / "none.png")
    with pytest.raises(UnreadableImageError, match="folder"):
        read(tmp_path)
    with pytest.raises(UnreadableImageError, match="cannot be opened"):
        read("a\0b")


def test_a_damaged_compressed_text_is_named_as_a_problem() -> None:
    packed = bytearray(making.ztext("parameters", A1111))
    packed[24:30] = b"\xff" * 6
    reading = read(making.png(bytes(packed), making.text("parameters", "a boat")))
    assert reading is not None
    assert reading.prompt == "a boat"
    assert "damaged" in reading.problems[0]


def test_a_stream_that_is_cut_is_not_whole() -> None:
    body = zlib.compress(A1111.encode())[:-12]
    data = making.png(making.chunk(b"zTXt", b"parameters\0\0" + body))
    (field,) = read_fields(data)
    assert not field.whole
