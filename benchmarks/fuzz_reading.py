"""Fuzz the exact route: random mutations of real files, none of which may crash or hang it.

    python benchmarks/fuzz_reading.py [--inputs 200000] [--seed 0] [--seconds S] [--files DIR]

The mutations are those of tests/reading/mutations.py, in turn. Any exception but
`UnreadableImageError`, and any input that takes more than 2 seconds of processor time, is reported
with its seed and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.reading.containers_made import made_files
from tests.reading.mutations import SIGNATURE, mutate_bytes, mutate_chunks, mutate_text
from unprompt.errors import UnreadableImageError
from unprompt.reading import read, read_fields

SLOW = 2.0
MAX_SAMPLE = 300_000  # larger files only repeat pixels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after these")
    parser.add_argument("--files", type=Path, default=Path("../shared/metadata"))
    options = parser.parse_args()
    paths = sorted(
        path
        for path in options.files.rglob("*")
        if path.is_file() and path.suffix not in (".md", ".json", ".jsonl", ".xmp")
    )
    if not paths:
        print(f"no samples under {options.files}", file=sys.stderr)
        return 2
    samples = [path.read_bytes()[:MAX_SAMPLE] for path in paths] + made_files() * 3
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
