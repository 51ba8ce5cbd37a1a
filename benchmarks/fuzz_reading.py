"""Fuzz the exact route: random mutations of real files, none of which may crash or hang it.

    python benchmarks/fuzz_reading.py [--inputs 200000] [--seed 0] [--seconds S] [--files DIR]

Three kinds of mutation, in turn: bytes of the file (flips, cuts, insertions, parts of another
file), the length fields and texts of PNG chunks with the pixels left out, and the JSON or A1111
text inside (keys dropped or swapped, links redirected, values replaced by hostile ones), packed
into a fresh PNG. Any exception but `UnreadableImageError`, and any input slower than 2 seconds
of processor time,
is reported with its seed and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import sys
import time
import traceback
import zlib
from pathlib import Path

from unprompt.errors import UnreadableImageError
from unprompt.reading import read, read_fields

SLOW = 2.0
MAX_SAMPLE = 300_000  # larger files only repeat pixels
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
    parts = [SIGNATURE, _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))]
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
            parts.append(_chunk(b"tEXt", key + b"\0" + encoded))
        else:
            parts.append(_chunk(b"zTXt", key + b"\0\0" + zlib.compress(encoded, 1)))
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after these")
    parser.add_argument("--files", type=Path, default=Path("../shared/metadata/files"))
    options = parser.parse_args()
    paths = sorted(path for path in options.files.rglob("*") if path.is_file())
    if not paths:
        print(f"no samples under {options.files}", file=sys.stderr)
        return 2
    samples = [path.read_bytes()[:MAX_SAMPLE] for path in paths]
    pngs = [sample for sample in samples if sample.startswith(SIGNATURE)]
    texts = [[(f.name, f.text) for f in read_fields(path)] for path in paths]
    texts = [found for found in texts if found]
    failures, slowest, slowest_seed, found, refused = 0, 0.0, -1, 0, 0
    begun = time.perf_counter()
    tried = 0
    for number in range(options.seed, options.seed + options.inputs):
        if time.perf_counter() - begun > options.seconds:
            break
        tried += 1
        rng = random.Random(number)
        kind = number % 3
        if kind == 0:
            data = mutate_bytes(rng.choice(samples), rng.choice(samples), rng)
        elif kind == 1:
            data = mutate_chunks(rng.choice(pngs), rng)
        else:
            data = mutate_text(rng.choice(texts), rng)
        start = time.process_time()
        try:
            reading = read(data)
            if reading is not None:
                found += 1
                json.dumps(reading.to_dict(), allow_nan=False).encode()
                (reading.prompt or "").encode()
        except UnreadableImageError:
            refused += 1
        except Exception:
            failures += 1
            print(f"seed {number}:", file=sys.stderr)
            traceback.print_exc(limit=-6)
            if failures >= 20:
                break
        taken = time.process_time() - start
        if taken > slowest:
            slowest, slowest_seed = taken, number
        if taken > SLOW:
            failures += 1
            print(f"seed {number}: {taken:.2f} s", file=sys.stderr)
    total = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{tried:,} inputs from seed {options.seed} in {total:.0f} s: "
        f"{found:,} read, {refused:,} refused, {failures} failures; "
        f"slowest {slowest * 1000:.0f} ms of processor time (seed {slowest_seed}); "
        f"peak memory {peak:.0f} MB"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
