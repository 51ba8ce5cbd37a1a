"""Captions of open_clip's CoCa, and ours on the same random weights and images.

The peer is open_clip_torch 3.3.0 with transformers 4.49.0, the pair whose `generate` works. It runs
in an environment of its own in unprompt's cache folder, with our torch. This file is also the
program that runs there, so it imports unprompt only inside functions.

    python tests/models/coca/open_clip_peer.py [--threads N] [--output FILE]

writes the peer's captions of a small model to peer_captions.json. The tests compare ours with them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

PEER = ["open_clip_torch==3.3.0", "transformers==4.49.0"]
RECORD = Path(__file__).with_name("peer_captions.json")
IMAGES = 4
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2,
                   "attentional_pool": True, "attn_pooler_queries": 9, "attn_pooler_heads": 2,
                   "output_tokens": True},
    "text_cfg": {"context_length": 76, "vocab_size": 1000, "width": 64, "heads": 2, "layers": 2,
                 "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 76, "vocab_size": 1000, "width": 64, "heads": 2,
                       "layers": 2, "attn_pooler_heads": 2},
}  # fmt: skip
# Arguments of open_clip's `generate`, and of ours.
SEARCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "6 beams": (
        {"num_beams": 6, "num_beam_groups": 1},
        {"num_beams": 6},
    ),
    "6 beams in 3 groups": (
        {"num_beams": 6, "num_beam_groups": 3},
        {"num_beams": 6, "num_beam_groups": 3},
    ),
    "greedy": (
        {"generation_type": "top_k", "top_k": 1},
        {},
    ),
    "sampling": (
        {"generation_type": "top_p", "top_p": 0.9},
        {"do_sample": True, "top_p": 0.9, "top_k": 0},
    ),
}
Case = tuple[str, int, int]  # name of a search, shortest and longest caption in tokens
EXACT: list[Case] = [
    (name, *span)
    for name in ("greedy", "6 beams", "6 beams in 3 groups")
    for span in ((29, 30), (75, 76), (5, 30))
]


def timed(run: Callable[[], object], repeats: int = 1) -> dict[str, float]:
    """Smallest wall and CPU seconds of several runs."""
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {"wall": min(wall), "cpu": min(cpu)}


def random_open_clip(stated: dict[str, Any], seed: int) -> torch.nn.Module:
    """A CoCa of open_clip whose weights are the same with every version of every library.

    The legacy generator of NumPy never changes its streams (NEP 19). A random model with small
    weights repeats one token for ever; these weights are large enough that captions depend on the
    image.
    """
    from open_clip.coca_model import CoCa

    model = CoCa(**{key: value for key, value in stated.items() if key != "custom_text"})
    draw = np.random.RandomState(seed)
    width = stated["text_cfg"]["width"]
    for name, weight in sorted(model.named_parameters()):
        values = torch.from_numpy(draw.standard_normal(weight.numel()).astype(np.float32))
        gain = 2 * width**-0.5 if weight.ndim > 1 else 0.1
        weight.data.copy_(values.view_as(weight) * gain)
        if "ln_" in name and name.endswith("weight"):
            weight.data.add_(1)
    return model.eval()


def random_pixels(stated: dict[str, Any], seed: int, images: int = IMAGES) -> torch.Tensor:
    """Normalised images that are noise, (images, 3, size, size)."""
    size = stated["vision_cfg"]["image_size"]
    noise = np.random.RandomState(seed).standard_normal((images, 3, size, size))
    return torch.from_numpy(noise.astype(np.float32))


# ---- the peer's side: runs in its own environment, without unprompt ----


def answer(folder: Path) -> None:
    """Do what ``job.json`` says and write ``results.json``."""
    import open_clip

    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    stated = job["stated"] or open_clip.get_model_config("coca_ViT-B-32")
    end = stated["text_cfg"].get("vocab_size", 49408) - 1
    results = []
    for seed in range(job["models"]):
        model, pixels = random_open_clip(stated, seed), random_pixels(stated, seed)
        for name, shortest, longest in job["cases"]:
            search = SEARCHES[name][0] | {"min_seq_len": shortest, "seq_len": longest}
            search |= {"sot_token_id": end - 1, "eos_token_id": end}
            tokens: list[torch.Tensor] = []
            torch.manual_seed(seed)
            seconds = timed(lambda: tokens.append(model.generate(pixels, **search)))  # noqa: B023
            results.append(seconds | {"tokens": tokens[0].tolist()})
    (folder / "results.json").write_text(json.dumps(results))


# ---- our side ----


def peer_python() -> Path:
    """Path of Python in the peer's environment, which the first call makes."""
    import torchvision

    from unprompt.files import cache_dir

    folder = cache_dir() / "benchmarks" / "open_clip-3.3.0"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        same = [f"{module.__name__}=={module.__version__}" for module in (torch, torchvision)]
        same = [pin.partition("+")[0] for pin in same]
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
        subprocess.run([*install, *PEER, *same], check=True)
        (folder / "complete").touch()
    return python


def ask_peer(
    stated: dict[str, Any] | None, cases: list[Case], threads: int, models: int = 1
) -> list[dict[str, Any]]:
    """The peer's captions and times, model by model and case by case."""
    with tempfile.TemporaryDirectory() as name:
        job = {"stated": stated, "cases": cases, "threads": threads, "models": models}
        Path(name, "job.json").write_text(json.dumps(job))
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        command = [peer_python(), __file__, "--peer", name]
        subprocess.run(command, check=True, env=environment)
        return json.loads(Path(name, "results.json").read_text())


def our_model(stated: dict[str, Any], seed: int = 0) -> Any:
    """The same model as `random_open_clip`'s, ours."""
    from unprompt.models.coca import CoCaForConditionalGeneration
    from unprompt.models.coca.open_clip import config_from_open_clip, load_open_clip

    config = config_from_open_clip(stated)
    end = config.vocab_size - 1
    config.update({"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end})
    model = CoCaForConditionalGeneration(config).eval()
    load_open_clip(model, random_open_clip(stated, seed).state_dict())
    return model


def our_captions(model: Any, pixels: torch.Tensor, case: Case) -> list[list[int]]:
    """Captions found by open_clip's rules, so that they can be compared with its own."""
    from unprompt.models.coca.open_clip_scores import OpenClipScores

    name, shortest, longest = case
    settings = SEARCHES[name][1] | {"min_length": shortest, "max_length": longest}
    if "num_beams" in settings:
        settings["logits_processor"] = [OpenClipScores(model)]
    else:  # open_clip ends every sampled caption at its full length
        settings["forced_eos_token_id"] = model.config.eos_token_id
    return model.generate(pixels, **settings).tolist()


def without_end(tokens: list[int], end: int) -> list[int]:
    """A caption up to its end token."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def compared(record: dict[str, Any], packed: bool = False) -> Iterator[tuple[Case, int, int]]:
    """Compare our captions with a record of the peer's.

    Args:
        record: the value of `recorded`.
        packed: generate with weights packed for a CPU.

    Yields:
        For each model and case: the case, how many captions are equal, and how many of the peer's
        captions are distinct.
    """
    from unprompt.models.coca.packing import pack

    stated, answers = record["stated"], iter(record["captions"])
    end = stated["text_cfg"]["vocab_size"] - 1
    for seed in range(record["models"]):
        model, pixels = our_model(stated, seed), random_pixels(stated, seed)
        if packed:
            pack(model)
        for case in map(tuple, record["cases"]):
            theirs = [without_end(caption, end) for caption in next(answers)]
            ours = [without_end(caption, end) for caption in our_captions(model, pixels, case)]
            equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
            yield case, equal, len({tuple(caption) for caption in theirs})


def recorded(threads: int, models: int) -> dict[str, Any]:
    """The peer's captions of small random models."""
    results = ask_peer(TINY, EXACT, threads, models)
    return {
        "peer": PEER,
        "stated": TINY,
        "models": models,
        "cases": EXACT,
        "captions": [result["tokens"] for result in results],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RECORD)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        answer(arguments.peer)
        return
    arguments.output.write_text(json.dumps(recorded(arguments.threads, models=1)) + "\n")


if __name__ == "__main__":
    main()
