"""CoCa against open_clip: the same captions, and what they and a training step cost.

The peer and its environment are described in tests/models/coca/open_clip_peer.py. Both sides draw
the same random weights and images from a seed, run one after the other, and report wall time and
CPU time. On a busy machine only ratios of CPU times mean anything, best with ``--threads 1``.

    python benchmarks/coca.py [parity] [generate] [throughput] [train] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.models.coca.open_clip_peer import (
    EXACT,
    IMAGES,
    SEARCHES,
    Case,
    ask_peer,
    compared,
    our_model,
    random_open_clip,
    random_pixels,
    recorded,
    timed,
)

PROMPTS = Path(__file__).resolve().parents[2] / "shared/prompts/imagereward_refl_diffusiondb.txt"


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

    kinds = torch.nn.Linear, PackedLinear
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
    parser.add_argument("--train-side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    threads = arguments.threads
    torch.set_num_threads(threads)
    if arguments.train_side:
        print(json.dumps(train_side(arguments.train_side, arguments.batch)))
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
