"""False positives of the exact route: images of installed packages, none of which has a prompt.

    python benchmarks/false_positives.py [DIR...] [--most 0]

Reads every image, drawing and video under the folders, without links and other file systems; by
default those of the system's packages, of Python and of the user's tools. Files with the same bytes
count once. A file for which `read` gives a prompt is printed with it and makes the exit code 1;
look at it before you call it false.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from unprompt.errors import UnreadableImageError
from unprompt.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from unprompt.reading import read, read_fields

SUFFIXES = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".svg", ".ico"}
FOLDERS = ("/usr", "/opt", "/var/lib", str(Path.home()), sys.base_prefix, sys.prefix)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR")
    parser.add_argument("--most", type=int, default=0, help="stop after so many; 0: no limit")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}")
    seen: set[bytes] = set()
    counts: Counter[str] = Counter()
    prompts = 0
    started = time.process_time()
    for path in files(options.folders or [Path(folder) for folder in FOLDERS]):
        if options.most and len(seen) >= options.most:
            break
        try:
            data = path.read_bytes()
        except OSError:
            continue
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if not data or digest in seen:
            continue
        seen.add(digest)
        counts[path.suffix.lower()] += 1
        try:
            reading = read(data)
        except UnreadableImageError:
            counts["refused"] += 1
            continue
        counts["with texts"] += bool(read_fields(data))
        if reading is not None and reading.prompt is not None:
            prompts += 1
            print(f"{path}: {reading.prompt[:200]!r} ({', '.join(reading.where)})")
    refused, texts = counts.pop("refused", 0), counts.pop("with texts", 0)
    print(", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common()))
    print(
        f"{len(seen):,} distinct files, {refused:,} refused, {texts:,} with texts, "
        f"{prompts} with a prompt; {time.process_time() - started:.0f} s of processor time"
    )
    return 1 if prompts else 0


def files(folders: list[Path]) -> Iterator[Path]:
    """Every image and video under the folders, without links and other file systems."""
    for folder in filter(Path.is_dir, folders):
        device = folder.stat().st_dev
        for place, names, found in os.walk(folder):
            names[:] = [
                name
                for name in names
                if not (inner := Path(place, name)).is_symlink() and inner.lstat().st_dev == device
            ]
            for name in sorted(found):
                path = Path(place, name)
                if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
                    yield path


if __name__ == "__main__":
    sys.exit(main())
