"""Random mutations of files that hold prompts, for the tests and for benchmarks/fuzz_reading.py.

Bytes of the file (flips, cuts, insertions, parts of another file); the length fields and texts of
PNG chunks; the JSON or A1111 text inside (keys dropped or swapped, links redirected, values
replaced by hostile ones), written into a new PNG.
"""

from __future__ import annotations

import json
import random
import struct
import zlib

from tests.reading.making import chunk

HOSTILE = [
    None, True, -1, 0, 2**64, -(2**63), 1e308, float("nan"), float("inf"), "", " ", "\0", "\ud800",
    "a" * 10_000, "[" * 2000, "{" * 2000, '"', "Steps: 20, Seed: 1", "Negative prompt: x", [], {},
    [["1", 0]], ["1", 0], ["4", -1], [0, 0], {"prompt": {"prompt": {}}}, {"nodes": [{}]},
    [[]] * 100,
    {"class_type": "KSampler", "inputs": {"positive": ["1", 0]}}, "9" * 5000, "<lora:x:1>",
]  # fmt: skip
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def mutate_bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        at = rng.randrange(len(changed))
        kind = rng.randrange(7)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            del changed[at : at + rng.choice((1, 4, 64, 4096))]
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
        elif kind == 4:
            start = rng.randrange(len(other)) if other else 0
            changed[at : at + 64] = other[start : start + rng.choice((4, 64, 2048))]
        elif kind == 5:
            changed[at : at + 4] = struct.pack(
                rng.choice("<>") + "I", rng.choice((0, 1, 2**31, 2**32 - 1))
            )
        else:
            del changed[at:]
    return bytes(changed)


def mutate_chunks(data: bytes, rng: random.Random) -> bytes:
    """Reorder, repeat, cut and relabel the chunks of a PNG, keeping most lengths consistent."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    rng.shuffle(chunks) if rng.random() < 0.2 else None
    parts = [SIGNATURE]
    for kind, body in chunks:
        if kind not in (b"IHDR", b"IEND") and rng.random() < 0.3:
            kind = rng.choice((b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"caBX", b"IDAT", kind))
            body = mutate_bytes(body[:20_000], body, rng)
        length = len(body) if rng.random() < 0.97 else rng.choice((0, 2**31 - 1, len(body) + 7))
        parts.append(struct.pack(">I", length) + kind + body + bytes(4))
    return b"".join(parts)


def mutate_value(value: object, rng: random.Random, depth: int = 0) -> object:
    if rng.random() < 0.03 or depth > 30:
        return rng.choice(HOSTILE)
    if isinstance(value, dict):
        items = list(value.items())
        if items and rng.random() < 0.1:
            items.pop(rng.randrange(len(items)))
        if len(items) > 1 and rng.random() < 0.1:
            a, b = rng.sample(range(len(items)), 2)
            items[a], items[b] = (items[a][0], items[b][1]), (items[b][0], items[a][1])
        return {key: mutate_value(item, rng, depth + 1) for key, item in items}
    if isinstance(value, list):
        items = [mutate_value(item, rng, depth + 1) for item in value]
        return items * 2 if items and rng.random() < 0.02 and depth > 1 else items
    if isinstance(value, str) and rng.random() < 0.1:
        if value.isdigit():
            return str(rng.randrange(100))
        return mutate_bytes(value.encode("utf-8", "replace"), b"", rng).decode("utf-8", "replace")
    return value


def mutate_text(texts: list[tuple[str, str]], rng: random.Random) -> bytes:
    parts = [SIGNATURE, chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))]
    for name, text in texts:
        try:
            text = json.dumps(mutate_value(json.loads(text), rng))
        except ValueError:
            lines = text.split("\n")
            rng.shuffle(lines) if rng.random() < 0.5 else None
            lines.insert(rng.randrange(len(lines) + 1), str(rng.choice(HOSTILE)))
            text = "\n".join(lines)
        encoded = text.encode("utf-8", "replace")
        if rng.random() < 0.2:
            encoded = mutate_bytes(encoded, b"", rng)
        key = name.encode("latin-1", "replace")[:79].replace(b"\0", b"?") or b"x"
        if rng.random() < 0.5:
            parts.append(chunk(b"tEXt", key + b"\0" + encoded))
        else:
            parts.append(chunk(b"zTXt", key + b"\0\0" + zlib.compress(encoded, 1)))
    return b"".join([*parts, chunk(b"IEND", b"")])
