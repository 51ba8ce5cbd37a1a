"""Small files of every container that can hold a prompt, made byte by byte."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

from PIL import Image

from tests.reading import making

FOX = "a red fox in snow"
TEXT = f"{FOX}\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5"
GRAPH = making.api(
    n3=("KSampler", {"seed": 5, "positive": ["6", 0], "negative": ["7", 0]}),
    n6=("CLIPTextEncode", {"text": FOX}),
    n7=("CLIPTextEncode", {"text": "blurry"}),
    n9=("SaveVideo", {"video": ["3", 0]}),
)


def mp4(*boxes: bytes, brand: bytes = b"isom") -> bytes:
    """An MP4 file with pixels before its tags, as encoders write them."""
    return (
        making.box(b"ftyp", brand + b"\0\0\0\0")
        + making.box(b"mdat", bytes(30_000))
        + making.box(b"moov", making.box(b"mvhd", bytes(100)) + b"".join(boxes))
    )


def full_box(kind: bytes, body: bytes) -> bytes:
    return making.box(kind, bytes(4) + body)


def data_box(text: str) -> bytes:
    return making.box(b"data", struct.pack(">II", 1, 0) + text.encode())


HANDLER = full_box(b"hdlr", b"\0\0\0\0mdir" + bytes(13))


def itunes(**tags: str) -> bytes:
    """``udta`` with iTunes items; ``cmt`` becomes the type of a comment."""
    items = b"".join(
        making.box(b"\xa9" + name.encode(), data_box(text)) for name, text in tags.items()
    )
    return making.box(b"udta", full_box(b"meta", HANDLER + making.box(b"ilst", items)))


def free_form(name: str, text: str) -> bytes:
    parts = full_box(b"mean", b"com.apple.iTunes") + full_box(b"name", name.encode())
    item = making.box(b"----", parts + data_box(text))
    return making.box(b"udta", full_box(b"meta", HANDLER + making.box(b"ilst", item)))


def keyed(full: bool = True, **tags: str) -> bytes:
    """``meta`` with a list of keys, as ffmpeg writes with ``use_metadata_tags``."""
    names = b"".join(making.box(b"mdta", name.encode()) for name in tags)
    items = b"".join(
        making.box(struct.pack(">I", number), data_box(text))
        for number, text in enumerate(tags.values(), 1)
    )
    body = HANDLER + full_box(b"keys", struct.pack(">I", len(tags)) + names)
    body += making.box(b"ilst", items)
    return full_box(b"meta", body) if full else making.box(b"meta", body)


def user_data(text: str) -> bytes:
    """QuickTime user data: a text with its length and language."""
    encoded = text.encode()
    item = making.box(b"\xa9cmt", struct.pack(">HH", len(encoded), 0) + encoded)
    return making.box(b"udta", item)


def element(number: int, body: bytes, unknown: bool = False) -> bytes:
    """An EBML element; the size takes 8 bytes."""
    head = number.to_bytes((number.bit_length() + 7) // 8, "big")
    size = (1 << 56) - 1 if unknown else len(body)
    return head + struct.pack(">Q", size | 1 << 56) + body


def matroska(unknown: bool = False, nested: bool = False, **tags: str) -> bytes:
    simple = b""
    for name, text in tags.items():
        body = element(0x45A3, name.encode()) + element(0x4487, text.encode())
        if nested:
            body = element(0x45A3, b"GROUP") + element(0x67C8, body)
        simple += element(0x67C8, body)
    block = element(0xA3, bytes(20_000))
    cluster = element(0x1F43B675, element(0xE7, b"\0") + block, unknown)
    tagged = element(0x1254C367, element(0x7373, element(0x63C0, b"") + simple))
    info = element(0x1549A966, element(0x5741, b"Lavf62"))
    segment = element(0x18538067, info + cluster + tagged, unknown)
    return element(0x1A45DFA3, element(0x4282, b"webm")) + segment


def svg(metadata: str, before: str = "", cdata: bool = True) -> bytes:
    inner = f"<![CDATA[{metadata}]]>" if cdata else metadata
    return (
        f'{before}<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8">'
        f"<metadata>{inner}</metadata><rect/><text>drawn</text></svg>"
    ).encode()


def gif(comment: bytes = b"", packet: bytes = b"", late: bytes = b"") -> bytes:
    """A GIF of two frames with a comment, an XMP packet, and a comment behind the frames."""
    file = io.BytesIO()
    frames = [Image.new("P", (8, 8), colour) for colour in (1, 2)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    data = file.getvalue()
    table = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    extra = b""
    if comment:
        extra += b"\x21\xfe" + blocks(comment)
    if packet:
        tail = b"\x01" + bytes(range(255, -1, -1))
        extra += b"\x21\xff\x0bXMP DataXMP" + packet + tail + b"\0"
    behind = b"\x21\xfe" + blocks(late) if late else b""
    return data[:table] + extra + data[table:-1] + behind + b";"


def blocks(data: bytes) -> bytes:
    parts = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def tiff(order: str = "<", second: bool = False, **options: Any) -> bytes:
    """A TIFF file whose directory follows 20,000 bytes of pixels."""
    block = making.exif(options["tags"], order, options.get("inner"))
    if not second:
        return block
    # The same directory as second page, behind one without texts.
    first = struct.pack(order + "H", 0) + struct.pack(order + "I", 14)
    moved = making.exif(options["tags"], order)
    del moved
    return block[:4] + struct.pack(order + "I", 8) + first + block[8:]


def jpeg_xl(*boxes: bytes) -> bytes:
    head = b"\0\0\0\x0cJXL \r\n\x87\n" + making.box(b"ftyp", b"jxl \0\0\0\0jxl ")
    return head + b"".join(boxes) + making.box(b"jxlc", b"\xff\x0a\0\0")


def stored_brotli(data: bytes) -> bytes:
    """A Brotli stream of one uncompressed block, with a window of 16 bits."""
    # window 0, not last, 4 nibbles of length, uncompressed: 1 + 1 + 2 + 16 + 1 bits
    bits = (len(data) - 1) << 4 | 1 << 20
    return bits.to_bytes(3, "little") + data + b"\x03"


def made_files() -> list[bytes]:
    """One file of each kind with a prompt in it."""
    comment = json.dumps({"prompt": GRAPH, "workflow": "{}"})
    exif = making.comment(b"ASCII\0\0\0" + TEXT.encode())
    packet = making.xmp(elements=f"<dc:description>{TEXT}</dc:description>")
    return [
        mp4(itunes(cmt=comment)),
        mp4(keyed(prompt=GRAPH)),
        mp4(keyed(full=False, prompt=GRAPH), brand=b"qt  "),
        mp4(user_data(TEXT), brand=b"qt  "),
        mp4(free_form("parameters", TEXT)),
        mp4(making.box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + packet)),
        matroska(PROMPT=GRAPH),
        matroska(unknown=True, COMMENT=comment),
        matroska(nested=True, PARAMETERS=TEXT),
        svg(json.dumps({"prompt": json.loads(GRAPH)})),
        svg(packet.decode(), '<?xml version="1.0"?>\n<!DOCTYPE svg>\n', cdata=False),
        gif(comment=TEXT.encode()),
        gif(late=GRAPH.encode()),
        gif(packet=packet),
        tiff(tags={0x010E: TEXT.encode() + b"\0"}),
        tiff(">", tags={}, inner={0x9286: b"ASCII\0\0\0" + TEXT.encode()}),
        jpeg_xl(making.box(b"Exif", bytes(4) + exif)),
        jpeg_xl(making.box(b"xml ", packet)),
        jpeg_xl(making.box(b"brob", b"Exif" + stored_brotli(bytes(4) + exif))),
        apng(),
    ]


def apng() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    data = file.getvalue()
    return data[:-12] + making.text("parameters", TEXT) + data[-12:]
