"""Compressed boxes of JPEG XL files (Brotli, RFC 7932), read with the optional package brotli."""

from __future__ import annotations

from unprompt.reading.limits import MAX_TEXT, Limits


def decompress(data: bytes, limits: Limits) -> bytes | None:
    """The content of a Brotli stream up to the limit, or None with a problem noted.

    Streams that store their content uncompressed are read without the package.
    """
    stored = _stored(data)
    if stored is not None:
        return stored
    try:
        import brotli
    except ImportError:
        limits.note(
            "JPEG XL: metadata compressed with Brotli; pip install 'unprompt[read]' to read it"
        )
        return None
    stream = brotli.Decompressor()
    try:
        text = bytes(stream.process(data, output_buffer_limit=MAX_TEXT + 1))
    except TypeError:
        limits.note("JPEG XL: metadata compressed with Brotli; brotli 1.2 or newer is needed")
        return None
    except brotli.error as error:
        limits.note(f"JPEG XL: damaged compressed metadata ({error})")
        return None
    if len(text) > MAX_TEXT:
        limits.note(f"JPEG XL: more than {MAX_TEXT >> 20} MiB of metadata; skipped")
        return None
    if not stream.is_finished():
        limits.note("JPEG XL: the file ends inside its compressed metadata")
    return text


def _stored(data: bytes) -> bytes | None:
    """The content of a stream of uncompressed blocks only; None for any other."""
    at = 0

    def take(count: int) -> int:
        nonlocal at
        value = _bits(data, at, count)
        at += count
        return value

    if take(1):  # the size of the window
        size = take(3)
        if not size:
            take(3)
    parts: list[bytes] = []
    total = 0
    while at < 8 * len(data):
        if take(1):  # the last block, which is empty or compressed
            return b"".join(parts) if take(1) else None
        nibbles = take(2)
        if nibbles == 3:
            if take(1):
                return None
            skipped = take(2)
            length = take(8 * skipped) + 1 if skipped else 0
            at = -(-at // 8) * 8 + 8 * length
            continue
        length = take(4 * (nibbles + 4)) + 1
        if not take(1):
            return None
        start = -(-at // 8)
        total += length
        if start + length > len(data) or total > MAX_TEXT:
            return None
        parts.append(data[start : start + length])
        at = 8 * (start + length)
    return None


def _bits(data: bytes, at: int, count: int) -> int:
    first, last = at // 8, -(-(at + count) // 8)
    return (int.from_bytes(data[first:last], "little") >> (at % 8)) & ((1 << count) - 1)
