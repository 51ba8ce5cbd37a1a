"""Our prompt encoder against sentence-transformers' default, on the same real prompts.

    .venv/bin/python benchmarks/encoding.py [--prompts 10000] [--block 10000] [--ours 3]

The prompts are those of Stable Diffusion's users in ``../shared/prompts``. Every contender encodes
64 prompts before the clock starts. Then they take turns on blocks of prompts (``--block``), so
that other programs slow them down alike. One large block is the fairest: contenders sort a block
by length, and sentence-transformers adds 32 % of padding to blocks of 2,500 prompts, 29 % to one of
10,000. On a busy machine compare processor times, on one core: ``OMP_NUM_THREADS=1 taskset -c 0``
before the command, because threads that wait for each other use processor time. The cache is off.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PROMPTS = Path(__file__).parents[2] / "shared" / "prompts"
FILES = ("imagereward_refl_diffusiondb.txt", "imagereward_test.txt")
CONTENDERS = [("auto", "auto"), ("onnx", "int8"), ("onnx", "fp32")]
"""Backends and precisions; the first is the default, the second the fastest."""
PEER = "sentence-transformers"


@dataclass
class Contender:
    """An encoder, and what it took and gave so far."""

    name: str
    encode: Callable[[list[str]], np.ndarray]
    wall: float = 0.0
    processor: float = 0.0
    blocks: list[np.ndarray] = field(default_factory=list)

    def run(self, texts: list[str]) -> None:
        """Encode a block on the clock."""
        wall, processor = time.perf_counter(), time.process_time()
        self.blocks.append(self.encode(texts))
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor


def read_prompts(count: int) -> list[str]:
    lines = [line for name in FILES for line in (PROMPTS / name).read_text().split("\n")]
    return [line for line in lines if line.strip()][:count]


def contenders(ours: int) -> list[Contender]:
    from sentence_transformers import SentenceTransformer

    from unprompt.encoding import DEFAULT_ENCODER, load_encoder
    from unprompt.encoding.sources import find_source

    peer = SentenceTransformer(str(find_source(DEFAULT_ENCODER)), device="cpu")
    chosen = CONTENDERS[:ours]
    encoders = [load_encoder(backend=backend, precision=precision) for backend, precision in chosen]
    names = [f"{encoder.backend} {encoder.precision}" for encoder in encoders]
    names[0] += " (default)"
    rivals = [Contender(name, own.encode) for name, own in zip(names, encoders, strict=True)]
    return [Contender(PEER, peer.encode), *rivals]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--block", type=int, default=10_000, help="prompts a turn")
    parser.add_argument("--ours", type=int, default=3, help="how many of ours")
    options = parser.parse_args()

    texts = read_prompts(options.prompts)
    rivals = contenders(options.ours)
    for rival in rivals:
        rival.encode(texts[:64])
    for start in range(0, len(texts), options.block):
        for rival in rivals:
            rival.run(texts[start : start + options.block])

    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in (PEER, "torch", "transformers", "onnxruntime")
    )
    print(f"{len(texts):,} prompts, {options.block:,} a turn; {len(os.sched_getaffinity(0))} cores")
    print(versions + "\n")
    print("| encoder | prompts/s | ratio | processor s | ratio | mean cosine | least |")
    print("|---|---|---|---|---|---|---|")
    peer = rivals[0]
    exact = np.concatenate(peer.blocks)
    for rival in rivals:
        cosines = (np.concatenate(rival.blocks) * exact).sum(axis=1)
        print(
            f"| {rival.name} | {len(texts) / rival.wall:.0f} | {peer.wall / rival.wall:.2f}x "
            f"| {rival.processor:.0f} | {peer.processor / rival.processor:.2f}x "
            f"| {cosines.mean():.5f} | {cosines.min():.5f} |"
        )


if __name__ == "__main__":
    main()
