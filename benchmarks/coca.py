"""CoCa against open_clip: the same captions, and what they and a training step cost.

The peer is open_clip_torch 3.3.0 with transformers 4.49.0, the pair whose `generate` works, in an
environment that this script makes in unprompt's cache folder, with our torch. Both sides draw the
same random weights and images from a seed, run one after the other, and report wall time and CPU
time; on a busy machine only ratios of CPU times mean anything, best with ``--threads 1``.

    python benchmarks/coca.py [parity] [generate] [throughput] [train] [--threads N]

``record`` writes the peer's captions of small models to tests/models/coca/peer_captions.json, with
which the tests compare ours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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
REPOSITORY = Path(__file__).resolve().parents[1]
RECORD = REPOSITORY / "tests/models/coca/peer_captions.json"
PROMPTS = REPOSITORY.parent / "shared/prompts/imagereward_refl_diffusiondb.txt"
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
# What open_clip's `generate` is asked, and what ours is.
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

    The legacy generator of NumPy never changes its streams (NEP 19). Weak random models repeat one
    token for ever: these are strong enough for captions to vary with the image.
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
    """Python of the peer's environment, made on the first call."""
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
    from unprompt.models.coca.scores import OpenClipScores

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
    """For each model and case of a record: captions of ours that equal the peer's, and distinct.

    Args:
        record: as ``record`` writes it.
        packed: generate with weights laid out for a CPU.
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


def parity(threads: int, models: int) -> bool:
    """Captions on random models, token for token.

    The fourth of eight writes token 0, which open_clip takes for padding, and the fifth captions
    that end early, which it ranks by another length: these differ (docs/coca.md).
    """
    record, fine = recorded(threads, models), True
    for packed in (False, True):
        equal, distinct = dict.fromkeys(EXACT, 0), dict.fromkeys(EXACT, 0)
        for case, same, different in compared(record, packed):
            equal[case] += same
            distinct[case] += different
        for case in EXACT:
            name, shortest, longest = case
            print(f"{name}, {shortest}-{longest} tokens{', packed' * packed}: {equal[case]} of "
                  f"{IMAGES * models} captions equal; {distinct[case]} distinct")  # fmt: skip
            fine &= equal[case] == IMAGES * models
    return fine


def step_products(model: Any, rows: int) -> list[Any]:
    """The layers by whose weights a step of generation multiplies, each with rows to multiply."""
    from unprompt.models.coca.packing import PackedLinear
    from unprompt.models.coca.panels import PanelLinear

    kinds = torch.nn.Linear, PackedLinear, PanelLinear
    layers = [
        layer
        for tower in (model.model.text.blocks, model.model.decoder)
        for name, layer in tower.named_modules()
        if isinstance(layer, kinds) and not name.endswith("key_value")
    ]
    return [(layer, torch.randn(rows, layer.weight.shape[1])) for layer in (*layers, model.head)]


@torch.inference_mode()
def generate(threads: int, lengths: list[int], names: list[str], with_peer: bool) -> None:
    """Seconds for the captions of 4 images, and the least that they can take."""
    import open_clip

    from unprompt.models.coca.packing import pack

    stated = open_clip.get_model_config("coca_ViT-B-32")
    cases: list[Case] = [(name, length - 1, length) for name in names for length in lengths]
    peer = ask_peer(None, cases, threads) if with_peer else None
    model, pixels = our_model(stated), random_pixels(stated, 0)
    weights = sum(p.numel() for p in model.parameters())
    print(f"coca_ViT-B-32, {weights / 1e6:.0f} M parameters, {IMAGES} images, {threads} thread(s)")
    for layout in ("as loaded", "packed"):
        if layout == "packed":
            print(f"packing: {timed(lambda: pack(model))['wall']:.2f} s, once")
        model.generate(pixels, num_beams=6, max_length=4)
        encoding = timed(lambda: model.model.encode_images(pixels), 3)
        whole = {
            "input_ids": torch.full((6 * IMAGES, 30), 49406),
            "image_outputs": model.model.encode_images(pixels),
        }
        full = timed(lambda: model(**whole), 3)  # noqa: B023
        print(f"{layout}: encoding the images {encoding['wall']:.2f} s, "
              f"one full forward of 24 x 30 tokens {full['wall']:.2f} s")  # fmt: skip
        for index, (name, shortest, longest) in enumerate(cases):
            settings = SEARCHES[name][1] | {"min_length": shortest, "max_length": longest}
            ours = timed(lambda: model.generate(pixels, **settings), 2)  # noqa: B023
            step = step_products(model, IMAGES * SEARCHES[name][1].get("num_beams", 1))
            least = timed(lambda: [layer(given) for layer, given in step], 8)  # noqa: B023
            share = (encoding["wall"] + (longest - 1) * least["wall"]) / ours["wall"]
            line = f"  {name}, {longest} tokens: ours {ours['wall']:.2f} s wall {ours['cpu']:.2f}"
            line += f" s CPU, images and bare products {share:.0%} of it"
            if peer is not None:
                theirs = peer[index]
                line += (f"; open_clip {theirs['wall']:.1f} s wall {theirs['cpu']:.1f} s CPU: "
                         f"{theirs['wall'] / ours['wall']:.1f}x wall, "
                         f"{theirs['cpu'] / ours['cpu']:.1f}x CPU")  # fmt: skip
            print(line, flush=True)


def throughput() -> None:
    """Captions a second against batch size."""
    from unprompt.models.coca import CoCaConfig, CoCaForConditionalGeneration
    from unprompt.models.coca.packing import pack

    torch.manual_seed(0)
    model = pack(CoCaForConditionalGeneration(CoCaConfig()).eval())
    for beams in (1, 6):
        for batch in (1, 4, 16, 64):
            pixels = torch.randn(batch, 3, 224, 224)
            search = {"num_beams": beams, "min_length": 29, "max_length": 30}
            seconds = timed(lambda: model.generate(pixels, **search))  # noqa: B023
            print(f"{beams} beam(s), 30 tokens, batch {batch}: {batch / seconds['wall']:.2f} "
                  f"captions/s, {batch / seconds['cpu']:.2f} a CPU second", flush=True)  # fmt: skip


def train(threads: int, batch: int) -> None:
    """A step of forward, backward and AdamW on captions alone, each side in its own process."""
    sides = {}
    for side in ("open_clip", "ours"):
        command = [sys.executable, __file__, "--train-side", side]
        command += ["--threads", str(threads), "--batch", str(batch)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        sides[side] = result = json.loads(done.stdout)
        print(f"training step, batch {batch}, {side}: {result['wall']:.2f} s wall "
              f"{result['cpu']:.2f} s CPU, peak {result['peak'] / 2**20:.2f} GiB, "
              f"losses {result['losses']}", flush=True)  # fmt: skip
    theirs, ours = sides.values()
    ratios = (f"{key} {theirs[key] / ours[key]:.2f}x" for key in ("wall", "cpu", "peak"))
    print("  " + ", ".join(ratios))


def train_side(side: str, batch: int) -> dict[str, Any]:
    """Seconds, losses and peak memory (KiB) of one side's steps."""
    import open_clip
    from open_clip.loss import CoCaLoss

    stated = open_clip.get_model_config("coca_ViT-B-32")
    prompts = PROMPTS.read_text("utf-8").split("\n")[:batch]
    pixels = random_pixels(stated, 0, batch)
    if side == "ours":
        from unprompt.models.coca import CoCaProcessor

        model = our_model(stated).train()
        processor = CoCaProcessor.from_config(model.config)
        text = processor(text=prompts, padding=True, return_tensors="pt")
        lengths = text["attention_mask"].sum(1)
        print(f"texts of {lengths.float().mean():.0f} tokens on average, longest {lengths.max()}",
              file=sys.stderr)  # fmt: skip

        def loss() -> torch.Tensor:
            return model(**text, pixel_values=pixels, labels=text["input_ids"]).loss
    else:
        model = random_open_clip(stated, 0).train()
        tokens = open_clip.get_tokenizer("coca_ViT-B-32")(prompts)
        criterion = CoCaLoss(1.0, 0.0)

        def loss() -> torch.Tensor:
            return sum(criterion(**model(pixels, tokens)))

    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)
    losses = []

    def step() -> None:
        value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(round(value.item(), 4))

    step()  # AdamW makes its state
    seconds = timed(step, 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds | {"losses": losses, "peak": peak}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["parity", "generate", "throughput", "train"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--lengths", type=int, nargs="+", default=[30], help="of captions, tokens")
    parser.add_argument("--case", action="append", choices=SEARCHES, help="only this search")
    parser.add_argument("--without-peer", action="store_true", help="generate: ours alone")
    parser.add_argument("--batch", type=int, default=16, help="of the training step")
    parser.add_argument("--models", type=int, default=8, help="random models of the parity check")
    parser.add_argument("--output", type=Path, default=RECORD, help="of the record")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train-side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        answer(arguments.peer)
        return 0
    threads = arguments.threads
    torch.set_num_threads(threads)
    if arguments.train_side:
        print(json.dumps(train_side(arguments.train_side, arguments.batch)))
        return 0
    if "record" in arguments.parts:
        arguments.output.write_text(json.dumps(recorded(threads, models=1)) + "\n")
        return 0
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}", flush=True)
    fine = True
    if "parity" in arguments.parts:
        fine = parity(threads, arguments.models)
    if "generate" in arguments.parts:
        names = arguments.case or ["6 beams", "greedy", "sampling"]
        generate(threads, arguments.lengths, names, not arguments.without_peer)
    if "train" in arguments.parts:
        train(threads, arguments.batch)
    if "throughput" in arguments.parts:
        throughput()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
