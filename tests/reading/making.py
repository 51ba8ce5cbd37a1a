"""Image files made byte by byte, so that each test states what it reads."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

from PIL import Image

A1111 = (
    "a red fox, <lora:add_detail:0.8>\nNegative prompt: blurry, low quality\n"
    "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 1234, "
    "Size: 512x768, Model hash: abc123, Model: handmade_v1, Clip skip: 2, Version: v1.10.1"
)


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    checked = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", checked)


def png(*chunks: bytes, late: bytes = b"", image: Image.Image | None = None) -> bytes:
    """A PNG with ``chunks`` before its pixels and ``late`` after them."""
    plain = io.BytesIO()
    (image or Image.new("RGB", (4, 4), "teal")).save(plain, "PNG")
    data = plain.getvalue()
    return data[:33] + b"".join(chunks) + data[33:-12] + late + data[-12:]


def text(key: str, value: str | bytes) -> bytes:
    return chunk(b"tEXt", key.encode("latin-1") + b"\0" + _bytes(value))


def ztext(key: str, value: str | bytes) -> bytes:
    return chunk(b"zTXt", key.encode("latin-1") + b"\0\0" + zlib.compress(_bytes(value)))


def itext(key: str, value: str | bytes, compressed: bool = False) -> bytes:
    body = zlib.compress(_bytes(value)) if compressed else _bytes(value)
    head = key.encode("latin-1") + b"\0" + bytes([compressed, 0]) + b"en\0clef\0"
    return chunk(b"iTXt", head + body)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def exif(tags: dict[int, bytes], order: str = "<", inner: dict[int, bytes] | None = None) -> bytes:
    """A TIFF block: ``tags`` in the main directory, ``inner`` in the EXIF directory."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    directories = [dict(tags), dict(inner or {})]
    start = 8
    size = 2 + 12 * (len(tags) + bool(inner)) + 4
    starts = [start, start + size]
    data_at = starts[1] + (2 + 12 * len(directories[1]) + 4 if inner else 0)
    blocks, data = [], b""
    for number, directory in enumerate(directories):
        if number and not inner:
            break
        entries = []
        for tag, value in sorted(directory.items()):
            kind = 7 if tag in (0x9286, 0x927C) else 1 if tag >= 0x9C9B else 2
            if len(value) <= 4:
                field = value.ljust(4, b"\0")
            else:
                field = struct.pack(order + "I", data_at + len(data))
                data += value
            entries.append(struct.pack(order + "HHI", tag, kind, len(value)) + field)
        if not number and inner:
            entries.append(struct.pack(order + "HHII", 0x8769, 4, 1, starts[1]))
        blocks.append(
            struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
        )
    return head + struct.pack(order + "I", start) + b"".join(blocks) + data


def comment(value: bytes, order: str = "<") -> bytes:
    return exif({}, order, {0x9286: value})


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    plain = io.BytesIO()
    Image.new("RGB", (4, 4), "teal").save(plain, "JPEG")
    made = b"".join(
        struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in segments
    )
    return plain.getvalue()[:2] + made + plain.getvalue()[2:]


def jpeg_exif(block: bytes) -> bytes:
    return jpeg((0xE1, b"Exif\0\0" + block))


def webp(**chunks: bytes) -> bytes:
    """A WebP with further chunks; keywords are padded to four letters with spaces."""
    plain = io.BytesIO()
    Image.new("RGB", (4, 4), "teal").save(plain, "WEBP", lossless=True)
    body = plain.getvalue()[12:]
    for name, data in chunks.items():
        kind = name.ljust(4).encode()
        body += kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def xmp(properties: str = "", elements: str = "") -> bytes:
    spaces = (
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:exif="http://ns.adobe.com/exif/1.0/" '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    )
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {spaces}>'
        f'<rdf:Description rdf:about="" {properties}>{elements}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body


def cbor(value: Any) -> bytes:
    """The few kinds of CBOR that manifests hold."""
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(cbor, value))
    return _head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value.items())


def _head(major: int, length: int) -> bytes:
    if length < 24:
        return bytes([major << 5 | length])
    if length < 256:
        return bytes([major << 5 | 24, length])
    return bytes([major << 5 | 25]) + struct.pack(">H", length)


def manifest(claim: dict[str, Any], actions: list[dict[str, Any]]) -> bytes:
    """A C2PA manifest store with one claim and one assertion of actions."""

    def superbox(label: str, *content: bytes) -> bytes:
        described = box(b"jumd", b"\0" * 16 + b"\3" + label.encode() + b"\0")
        return box(b"jumb", described + b"".join(content))

    asserted = superbox("c2pa.actions", box(b"cbor", cbor({"actions": actions})))
    claimed = superbox("c2pa.claim", box(b"cbor", cbor(claim)))
    return superbox("c2pa", superbox("urn:uuid:1", superbox("c2pa.assertions", asserted), claimed))


def hide(message: bytes, mark: bytes, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """An image whose lowest bits, column by column, hold a message after its mark and length."""
    data = mark + struct.pack(">I", len(message) * 8) + message
    bits = [byte >> shift & 1 for byte in data for shift in range(7, -1, -1)]
    in_alpha = mark.startswith(b"stealth_png")
    image = Image.new("RGBA" if in_alpha else "RGB", size, (10, 20, 30, 254) if in_alpha else 10)
    pixels = image.load()
    per_pixel = 1 if in_alpha else 3
    for number in range(0, len(bits), per_pixel):
        x, y = divmod(number // per_pixel, size[1])
        values = list(pixels[x, y])
        for offset, bit in enumerate(bits[number : number + per_pixel]):
            index = 3 if in_alpha else offset
            values[index] = values[index] & ~1 | bit
        pixels[x, y] = tuple(values)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def api(**nodes: tuple[str, dict[str, Any]]) -> str:
    """An API prompt; the node ``n7`` has the id 7, and ``["7", 0]`` links to it."""
    return json.dumps(
        {name.removeprefix("n"): {"class_type": k, "inputs": i} for name, (k, i) in nodes.items()}
    )
