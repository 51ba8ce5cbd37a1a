"""Near-duplicate removal: ours, the starting point's algorithm and semhash, on one set of prompts.

    python benchmarks/dedup.py                # about 100,000 real prompts; needs ../shared/prompts
    python benchmarks/dedup.py --million      # 1,000,000 perturbed ones, ours alone
    python benchmarks/dedup.py --kills 50     # kill -9 at random moments, then run again

Peers: faiss-cpu (a dependency of unprompt[data]) and semhash (`pip install semhash`; left out of
the table where it is not installed). Every run is timed in a process of its own, on all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from unprompt.curating.dedup.deduplication import Deduplication

SHARED = Path(__file__).parents[2] / "shared"
THRESHOLD = 0.9
MOST_COMPARED = 150_000
"""Largest number of rows whose pairs are compared."""
UNPROMPT = str(Path(sys.executable).with_name("unprompt"))


def real_prompts() -> list[str]:
    """Every distinct prompt of ../shared, in a fixed order."""
    lines: list[str] = []
    for path in sorted((SHARED / "prompts").glob("*.txt")):
        lines += [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    with (SHARED / "pairs" / "pairs.jsonl").open() as pairs:
        lines += [json.loads(line)["prompt"] for line in pairs]
    return list(dict.fromkeys(lines))


def perturbed(rows: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """``count`` rows: real rows, each plus 0.1 to 0.6 of another real row."""
    draw = np.random.default_rng(seed)
    made = np.empty((count, rows.shape[1]), np.float32)
    for start in range(0, count, len(rows)):
        part = made[start : start + len(rows)]
        share = draw.uniform(0.1, 0.6, (len(part), 1)).astype(np.float32)
        part[:] = rows[: len(part)] + share * rows[draw.permutation(len(rows))[: len(part)]]
    return made


class Clock:
    """Seconds on the wall and of all cores since it was made.

    Where other work shares the machine, only the seconds of the cores can be compared.
    """

    def __init__(self) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Seconds on the wall and of all cores so far."""
        wall, cores = self._begin
        return {"seconds": time.perf_counter() - wall, "core_seconds": time.process_time() - cores}


# --- the three ways, each given embeddings of shape (n, dim) in a .npy file -------------------


def ours(rows: np.ndarray) -> dict:
    from unprompt.curating.dedup.deduplication import deduplicate

    clock = Clock()
    found = deduplicate(rows, THRESHOLD)
    kept, groups = found.kept, found.groups
    spent = clock.read()
    if len(rows) <= MOST_COMPARED:
        np.save(f"{sys.argv[3]}.pairs.npy", row_pairs(found))
        np.save(f"{sys.argv[3]}.kept.npy", kept)
    return {**spent, "pairs": len(found.pairs), "kept": len(kept), "groups": len(groups)}


def row_pairs(found: Deduplication) -> np.ndarray:
    """Pairs of rows: those of the items, and those of rows folded to one item."""
    order = np.argsort(found.items.item_of, kind="stable")
    members = np.split(order, np.cumsum(found.items.sizes)[:-1])
    parts = [np.stack(np.triu_indices(len(rows), 1)) for rows in members]
    parts = [rows[part] for rows, part in zip(members, parts, strict=True)]
    for i, j in zip(found.pairs.first.tolist(), found.pairs.second.tolist(), strict=True):
        one, other = np.meshgrid(members[i], members[j])
        parts.append(np.sort(np.stack([one.ravel(), other.ravel()]), axis=0))
    return np.concatenate(parts, axis=1)


def starting_point(rows: np.ndarray) -> dict:
    """The starting point: every member of a group with a neighbour is removed (FIELD.md, 1)."""
    import faiss

    clock = Clock()
    rows = np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    removed: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(rows), 2000):
        scores, neighbours = index.search(rows[start : start + 2000], 1000)
        for row, (score, near) in enumerate(zip(scores, neighbours, strict=True), start):
            others = near[score >= THRESHOLD]
            others = others[others != row]
            if len(others):
                removed.add(row)
                pairs += [(min(row, other), max(row, other)) for other in others.tolist()]
    spent = clock.read()
    np.save(f"{sys.argv[3]}.pairs.npy", np.unique(np.array(pairs), axis=0).T)
    np.save(f"{sys.argv[3]}.kept.npy", np.setdiff1d(np.arange(len(rows)), [*removed]))
    return {**spent, "kept": len(rows) - len(removed)}


def semhash(rows: np.ndarray) -> dict:
    from semhash import SemHash

    class NoModel:
        """Never called: embeddings are given."""

        def encode(self, inputs: list, **options: object) -> np.ndarray:
            raise NotImplementedError

    clock = Clock()
    records = [str(row) for row in range(len(rows))]
    found = SemHash.from_embeddings(rows, records, NoModel()).self_deduplicate(THRESHOLD)
    spent = clock.read()
    pairs = [
        (min(int(item.record), int(other)), max(int(item.record), int(other)))
        for item in found.filtered
        for other, _ in item.duplicates
    ]
    np.save(f"{sys.argv[3]}.pairs.npy", np.array(pairs).reshape(-1, 2).T)
    np.save(f"{sys.argv[3]}.kept.npy", np.sort(np.array(found.selected, dtype=np.int64)))
    return {**spent, "kept": len(found.selected)}


def brute_force(rows: np.ndarray) -> dict:
    """All pairs by the full float32 product; within 1e-6 of the threshold it can be wrong."""
    import torch

    unit = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    clock = Clock()
    found = []
    for start in range(0, len(unit), 1024):
        hit = (unit[start : start + 1024] @ unit[start:].T >= THRESHOLD).numpy()
        i, j = np.divmod(np.flatnonzero(hit), hit.shape[1])
        found.append(np.stack([i, j])[:, i < j] + start)
    np.save(f"{sys.argv[3]}.pairs.npy", np.concatenate(found, axis=1))
    return clock.read()


WAYS = {way.__name__: way for way in (ours, starting_point, semhash, brute_force)}


def run(way: str, embeddings: Path) -> dict:
    """One method in its own process: seconds, peak memory and the pairs it found."""
    print(f"# {way} ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, way, str(embeddings), str(embeddings.with_name(way))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-500:], file=sys.stderr)
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path) -> None:
    embeddings = folder / "real.npy"
    count = len(np.load(embeddings, mmap_mode="r"))
    load = os.getloadavg()[0]
    # Ours runs before and after the others, to show changes of the machine's load.
    ways = ["ours", "starting_point", "semhash", "brute_force", "ours"]
    results = [(way, run(way, embeddings)) for way in ways]
    truth = _keys(np.load(folder / "brute_force.pairs.npy"), count)
    print(
        f"\n{count:,} prompts, cosine {THRESHOLD}, {len(truth):,} pairs; load before: {load:.1f}\n"
    )
    print("| way | seconds | core seconds | peak MB | kept | pairs found | left among the kept |")
    print("|---|---|---|---|---|---|---|")
    for way, result in results:
        if "error" in result:
            print(f"| {way} | {result['error']} | | | | | |")
            continue
        found = _keys(np.load(folder / f"{way}.pairs.npy"), count)
        kept = left = "-"
        if "kept" in result:
            rows = np.load(folder / f"{way}.kept.npy")
            kept = f"{len(rows):,}"
            left = f"{np.isin(np.stack(np.divmod(truth, count)), rows).all(0).sum():,}"
        print(
            f"| {way.replace('_', ' ')} | {result['seconds']:.2f} | {result['core_seconds']:.2f} "
            f"| {result['peak_mb']:,} | {kept} | {np.isin(truth, found).mean():.4%} | {left} |"
        )
    for what in ("seconds", "core_seconds"):
        ours_took = [result[what] for way, result in results if way == "ours"]
        for way, result in results[1:-1]:
            if what in result:
                low, high = result[what] / max(ours_took), result[what] / min(ours_took)
                print(f"ours against {way}, by {what}: {low:.1f} to {high:.1f} times as fast")


def _keys(pairs: np.ndarray, count: int) -> np.ndarray:
    return np.unique(pairs[0].astype(np.int64) * count + pairs[1])


def million(folder: Path, counts: list[int]) -> None:
    real = np.load(folder / "real.npy")
    print("\n| rows | pairs | seconds | core seconds | peak MB | kept | groups |")
    print("|---|---|---|---|---|---|---|")
    for count in counts:
        made = folder / f"perturbed-{count}.npy"
        np.save(made, perturbed(real, count))
        found = run("ours", made)
        print(
            f"| {count:,} | {found['pairs']:,} | {found['seconds']:.1f} "
            f"| {found['core_seconds']:.1f} "
            f"| {found['peak_mb']:,} | {found['kept']:,} | {found['groups']:,} |",
            flush=True,
        )
        made.unlink()


def kills(folder: Path, count: int) -> None:
    """Kill `unprompt dedup` at random times; its output must be whole or absent every time."""
    from unprompt.pairs.table import Pair, PairsTable, load, save

    draw = random.Random(0)
    rows = np.load(folder / "real.npy")[:3000]
    pairs = [Pair(str(k), f"{k}.png", f"prompt {k}", embedding=row) for k, row in enumerate(rows)]
    save(PairsTable.from_pairs(pairs, folder), folder / "in.parquet")
    output = folder / "out.parquet"
    command = [
        UNPROMPT,
        "dedup",
        str(folder / "in.parquet"),
        "-o",
        str(output),
    ]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    whole = load(output).column("id")
    counts = {"absent": 0, "whole": 0}
    for _ in range(count):
        output.unlink(missing_ok=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0, 1.1 * seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if output.exists():
            assert load(output).column("id") == whole
        counts["whole" if output.exists() else "absent"] += 1
        subprocess.run(command, check=True, capture_output=True)
        assert load(output).column("id") == whole
    print(f"{count} kills: output absent {counts['absent']}, whole {counts['whole']}, half 0; ")
    print("the same command again gave the whole output each time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", action="store_true", help="100 k, 300 k and 1 M rows")
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit("../shared is absent: these measurements need its prompts")
    from unprompt.encoding import encode

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "real.npy", encode(real_prompts()))
        if options.kills:
            kills(folder, options.kills)
        elif options.million:
            million(folder, options.counts)
        else:
            compare(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in WAYS:
        answer = WAYS[sys.argv[1]](np.load(sys.argv[2]))
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(answer))
    else:
        main()
