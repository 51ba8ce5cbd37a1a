"""Banks with an index against exact search in numpy: recall, time of a search, size.

Run: python benchmarks/bank.py [TEXTS.txt] [--queries 200] [--index flat sq8 pq]

The queries are embeddings with a cosine of about 0.7 to a prompt of the bank, one at a time, as for
one image. Times are processor times on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from unprompt.models.bank.bank import Bank, recall
from unprompt.predicting.build_models import build_bank

TEXTS = Path("../shared/prompts/imagereward_refl_diffusiondb.txt")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path, nargs="?", default=TEXTS)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--index", nargs="+", default=["flat", "sq8", "pq"])
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    print("| index | probes | build s | MB beside the texts | recall@10 | ms a search |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for index in options.index:
            folder = Path(scratch) / index
            started = time.process_time()
            build_bank(options.texts, folder, index)
            built = time.process_time() - started
            size = sum(p.stat().st_size for p in folder.iterdir() if p.name != "prompts.txt") / 1e6
            for probes in (1,) if index == "flat" else (8, 32, 128):
                bank = Bank.load(folder, probes)
                share = recall(bank, 10, options.queries)
                shown = "all" if index == "flat" else probes
                ms = 1000 * seconds(bank, options.queries) / options.queries
                row = f"| {index} | {shown} | {built:.1f} | {size:.0f} | {share:.3f} | {ms:.2f} |"
                print(row, flush=True)


def seconds(bank: Bank, queries: int) -> float:
    random = np.random.default_rng(1)
    wanted = bank.embeddings(random.integers(len(bank), size=queries))
    wanted = wanted + random.normal(scale=384**-0.5, size=wanted.shape).astype(np.float32)
    bank.nearest(wanted[:1], 10)
    started = time.process_time()
    for row in wanted:
        bank.nearest(row[None], 10)
    return time.process_time() - started


if __name__ == "__main__":
    main()
