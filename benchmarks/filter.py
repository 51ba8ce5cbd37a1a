"""A large pairs table, filtered as it streams: time, rows a second and peak memory.

    .venv/bin/python benchmarks/filter.py [--rows 10000000] [--folder /tmp]

The rows repeat the real prompts of ``../shared/prompts``, each time with another number at the
end, and sizes and settings. ``unprompt filter`` runs in a process of its own; the copy that it
writes is checked by its number of rows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unprompt.pairs.table import PairsTable, PairsWriter

PROMPTS = Path(__file__).parents[2] / "shared" / "prompts"
UNPROMPT = str(Path(sys.executable).with_name("unprompt"))
RULES = [
    *("--min-words", "3", "--max-words", "60", "--min-chars", "10", "--max-chars", "300"),
    *("--ascii", "--no-match", "(?i)lorem ipsum", "--no-nsfw"),
    *("--min-side", "512", "--max-aspect", "2"),
]
BATCH = 100_000


def make_table(path: Path, rows: int) -> None:
    """A table of so many rows, an eighth of them with images of 256 pixels."""
    lines = [
        line for file in sorted(PROMPTS.glob("*.txt")) for line in file.read_text().split("\n")
    ]
    with PairsWriter(path) as writer:
        for start in range(0, rows, BATCH):
            numbers = range(start, min(start + BATCH, rows))
            side = pa.array([256 if number % 8 == 0 else 512 for number in numbers], pa.int32())
            names = [f"{number:08}" for number in numbers]
            columns = {
                "id": names,
                "file": [f"{name[:4]}/{name}.jpg" for name in names],
                "prompt": [f"{lines[number % len(lines)]} {number}" for number in numbers],
                "source": pa.repeat("benchmark", len(names)),
                "width": side,
                "height": side,
                "seed": pa.array(numbers, pa.uint64()),
            }
            writer.write(PairsTable(pa.table(columns), path.parent))


def measure(command: list[str]) -> tuple[float, float, float, str]:
    """Run a command: seconds on the wall and of the cores, peak MB, and what it printed."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    printed = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(printed)
    cores = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - begin, cores, usage.ru_maxrss / 1024, printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where the tables go for the time being")
    options = parser.parse_args()
    if not PROMPTS.is_dir():
        sys.exit("../shared is absent: this measurement needs its prompts")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, output = Path(folder) / "pairs.parquet", Path(folder) / "clean.parquet"
        make_table(source, options.rows)
        print("| rows | file MB | seconds | core seconds | rows/s | peak MB | kept |")
        print("|---|---|---|---|---|---|---|")
        command = [UNPROMPT, "filter", str(source), "-o", str(output), *RULES]
        wall, cores, memory, printed = measure(command)
        kept = pq.ParquetFile(output).metadata.num_rows
        print(
            f"| {options.rows:,} | {source.stat().st_size / 1e6:,.0f} | {wall:.1f} | {cores:.1f} "
            f"| {options.rows / wall:,.0f} | {memory:.0f} | {kept:,} |"
        )
        print("\n" + "\n".join(line for line in printed.splitlines() if "Filtering" not in line))


if __name__ == "__main__":
    main()
