"""CoCa against open_clip: the same captions, and what they and a training step cost.

The peer is open_clip_torch 3.3.0 with transformers 4.49.0, the pair whose `generate` works, in an
environment that this script makes in unprompt's cache folder. Both sides get the same random
weights and the same images through a job folder, run one after the other, and report wall time
and CPU time; on a busy machine only the ratio of CPU times means anything, best with
``--threads 1``.

    python benchmarks/coca.py [parity] [generate] [throughput] [train] [--threads N] [--long]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

PEER = ["open_clip_torch==3.3.0", "transformers==4.49.0", "torch", "torchvision", "psutil"]
PROMPTS = Path(__file__).parents[1].parent / "shared/prompts/imagereward_refl_diffusiondb.txt"
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


def timed(run: Callable[[], object], repeats: int = 1) -> dict[str, float]:
    """Smallest wall and CPU seconds of several runs."""
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {"wall": min(wall), "cpu": min(cpu)}


# ---- open_clip's side: runs in the peer's environment, without unprompt ----


def random_open_clip(stated: dict, seed: int) -> torch.nn.Module:
    from open_clip.coca_model import CoCa

    torch.manual_seed(seed)
    stated = {key: value for key, value in stated.items() if key != "custom_text"}
    model = CoCa(**stated).eval()
    width = stated["text_cfg"]["width"]
    # open_clip leaves this one uninitialised. Random models tend to repeat one token for ever:
    # stronger weights make captions vary.
    torch.nn.init.normal_(model.text_decoder.text_projection, std=3 * width**-0.5)
    for name, parameter in model.named_parameters():
        if "attn" in name and parameter.ndim > 1:
            parameter.data.mul_(2)
    return model


def open_clip_side(folder: Path) -> None:
    import open_clip

    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    stated = job["stated"] or open_clip.get_model_config("coca_ViT-B-32")
    results = []
    for seed in range(job["models"]):
        model = random_open_clip(stated, seed)
        size = stated["vision_cfg"]["image_size"]
        pixels = torch.randn(job["images"], 3, size, size)
        torch.save({"weights": model.state_dict(), "pixels": pixels}, folder / f"{seed}.pt")
        for search in job["searches"]:
            tokens: list[torch.Tensor] = []
            torch.manual_seed(seed)
            seconds = timed(lambda: tokens.append(model.generate(pixels, **search)))  # noqa: B023
            results.append(seconds | {"tokens": tokens[0].tolist()})
            if job["models"] == 1:
                print(f"open_clip {search}: {seconds}", file=sys.stderr, flush=True)
    (folder / "stated.json").write_text(json.dumps(stated))
    (folder / "results.json").write_text(json.dumps(results))


# ---- our side ----


def peer_python() -> Path:
    """Python of the peer's environment, made on the first call."""
    from unprompt.files import cache_dir

    folder = cache_dir() / "benchmarks" / "open_clip-3.3.0"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER], check=True)
        (folder / "complete").touch()
    return python


def ask_peer(folder: Path, **job: object) -> list[dict]:
    (folder / "job.json").write_text(json.dumps(job))
    environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"])}
    subprocess.run([peer_python(), __file__, "--peer", str(folder)], check=True, env=environment)
    return json.loads((folder / "results.json").read_text())


def our_model(folder: Path, seed: int) -> tuple:
    from unprompt.models.coca import CoCaForConditionalGeneration
    from unprompt.models.coca.open_clip import config_from_open_clip, load_open_clip

    stated = json.loads((folder / "stated.json").read_text())
    given = torch.load(folder / f"{seed}.pt", weights_only=True)
    config = config_from_open_clip(stated)
    end = config.vocab_size - 1
    config.update({"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end})
    model = CoCaForConditionalGeneration(config).eval()
    load_open_clip(model, given["weights"])
    return model, given["pixels"]


def same(ours: torch.Tensor, theirs: list[list[int]], end: int) -> int:
    """Captions that agree token for token, up to the end token."""

    def cut(tokens: list[int]) -> list[int]:
        return tokens[: tokens.index(end)] if end in tokens else tokens

    return sum(cut(a) == cut(b) for a, b in zip(ours.tolist(), theirs, strict=True))


SEARCHES = {
    "greedy": (
        {"generation_type": "top_k", "top_k": 1},
        {"force_end": True},
    ),
    "6 beams": (
        {"num_beams": 6, "num_beam_groups": 1},
        {"num_beams": 6},
    ),
    # Without a diversity penalty all of open_clip's groups find the same beams.
    "6 beams in 3 groups (2 beams)": (
        {"num_beams": 6, "num_beam_groups": 3},
        {"num_beams": 2},
    ),
}


def parity(threads: int, stated: dict | None, models: int, lengths: list[tuple[int, int]]) -> bool:
    """Captions on random models, token for token."""
    from unprompt.models.coca.packing import pack
    from unprompt.models.coca.scores import OpenClipScores

    fine = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        end = (stated or {"text_cfg": {"vocab_size": 49408}})["text_cfg"]["vocab_size"] - 1
        cases = [(case, *length) for case in SEARCHES for length in lengths]
        searches = [
            SEARCHES[case][0]
            | {"seq_len": longest, "min_seq_len": shortest}
            | {"sot_token_id": end - 1, "eos_token_id": end}
            for case, shortest, longest in cases
        ]
        peer = ask_peer(
            folder, threads=threads, stated=stated, models=models, images=4, searches=searches
        )
        counts = dict.fromkeys(cases, 0)
        packed = dict.fromkeys(cases, 0)
        distinct: dict[tuple, set] = {case: set() for case in cases}
        for seed in range(models):
            model, pixels = our_model(folder, seed)
            for step in ("", "packed"):
                if step:
                    pack(model)
                for index, (case, shortest, longest) in enumerate(cases):
                    theirs = peer[seed * len(cases) + index]["tokens"]
                    settings = SEARCHES[case][1] | {"min_length": shortest, "max_length": longest}
                    if settings.pop("force_end", False):
                        settings["forced_eos_token_id"] = end
                    if "num_beams" in settings:
                        settings["logits_processor"] = [OpenClipScores(model)]
                    ours = model.generate(pixels, **settings)
                    (packed if step else counts)[cases[index]] += same(ours, theirs, end)
                    distinct[cases[index]] |= {tuple(caption) for caption in theirs}
        for case, shortest, longest in cases:
            key = (case, shortest, longest)
            total = 4 * models
            print(f"{case}, {shortest}-{longest} tokens: {counts[key]} of {total} captions equal, "
                  f"packed {packed[key]}; {len(distinct[key])} distinct")  # fmt: skip
            fine &= counts[key] == total
    return fine


def generate(threads: int, long: bool, chosen: list[str] | None = None) -> None:
    """Seconds for the captions of 4 images."""
    from unprompt.models.coca.packing import pack

    lengths = [30, 76] if long else [30]
    names = [*SEARCHES, "sampling"] if long else ["6 beams", "greedy", "sampling"]
    cases = [(case, length) for case in chosen or names for length in lengths]
    theirs_of = {case: pair[0] for case, pair in SEARCHES.items()}
    theirs_of["sampling"] = {"generation_type": "top_p", "top_p": 0.9}
    ours_of = {case: pair[1] for case, pair in SEARCHES.items()}
    ours_of["greedy"] = {}
    ours_of["6 beams in 3 groups (2 beams)"] = {"num_beams": 6}
    ours_of["sampling"] = {"do_sample": True, "top_p": 0.9, "top_k": 0}
    searches = [theirs_of[c] | {"seq_len": n, "min_seq_len": n - 1} for c, n in cases]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = ask_peer(folder, threads=threads, stated=None, models=1, images=4, searches=searches)
        model, pixels = our_model(folder, 0)
    weights = sum(p.numel() for p in model.parameters())
    print(f"coca_ViT-B-32, {weights / 1e6:.0f} M parameters, 4 images, {threads} thread(s)")
    model.generate(pixels, max_length=4)
    for step in ("as loaded", "packed"):
        if step == "packed":
            print(f"packing: {timed(lambda: pack(model))['wall']:.2f} s, once")
        with torch.inference_mode():
            encoding = timed(lambda: model.model.encode_images(pixels), 3)["cpu"]
            whole = {
                "input_ids": torch.full((24, 30), 49406),
                "image_outputs": model.model.encode_images(pixels),
            }
            full = timed(lambda: model(**whole), 3)["cpu"]  # noqa: B023
        print(f"{step}: encode 4 images {encoding:.2f} s, one forward of 24 x 30 tokens {full:.2f}")
        for index, (case, length) in enumerate(cases):
            settings = ours_of[case] | {"min_length": length - 1, "max_length": length}
            ours = timed(lambda: model.generate(pixels, **settings))  # noqa: B023
            theirs = peer[index]
            print(
                f"  {case}, {length} tokens: open_clip {theirs['wall']:.1f} s wall "
                f"{theirs['cpu']:.1f} s CPU; ours {ours['wall']:.2f} s wall {ours['cpu']:.2f} s "
                f"CPU: {theirs['wall'] / ours['wall']:.1f}x wall {theirs['cpu'] / ours['cpu']:.1f}x"
                " CPU",
                flush=True,
            )


def throughput(threads: int) -> None:
    """Captions a CPU second against batch size."""
    from unprompt.models.coca import CoCaConfig, CoCaForConditionalGeneration
    from unprompt.models.coca.packing import pack

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = pack(CoCaForConditionalGeneration(CoCaConfig()).eval())
    for batch in (1, 4, 16, 64):
        pixels = torch.randn(batch, 3, 224, 224)
        for beams in (1, 6):
            seconds = timed(
                lambda: model.generate(pixels, num_beams=beams, min_length=29, max_length=30)  # noqa: B023
            )
            print(
                f"batch {batch}, {beams} beam(s), 30 tokens: "
                f"{batch / seconds['cpu']:.2f} captions/CPU s, {batch / seconds['wall']:.2f}/s",
                flush=True,
            )


def train(threads: int, batch: int) -> None:
    """A step of forward, backward and AdamW on captions alone, same weights and batch."""
    import open_clip
    from open_clip.loss import CoCaLoss

    from unprompt.models.coca import CoCaForConditionalGeneration, CoCaProcessor
    from unprompt.models.coca.open_clip import config_from_open_clip, load_open_clip

    torch.set_num_threads(threads)
    stated = open_clip.get_model_config("coca_ViT-B-32")
    theirs = random_open_clip(stated, 0).train()
    ours = CoCaForConditionalGeneration(config_from_open_clip(stated)).train()
    load_open_clip(ours, theirs.state_dict())
    prompts = PROMPTS.read_text("utf-8").split("\n")[:batch]
    pixels = torch.randn(batch, 3, 224, 224)
    tokens = open_clip.get_tokenizer("coca_ViT-B-32")(prompts)
    text = CoCaProcessor.from_config(ours.config)(text=prompts, padding=True, return_tensors="pt")
    loss = CoCaLoss(1.0, 0.0)
    optimisers = [torch.optim.AdamW(model.parameters(), lr=1e-5) for model in (theirs, ours)]
    losses: list[list[float]] = [[], []]

    def their_step() -> None:
        output = theirs(pixels, tokens)
        value = sum(loss(**output))
        value.backward()
        optimisers[0].step()
        optimisers[0].zero_grad()
        losses[0].append(value.item())

    def our_step() -> None:
        value = ours(**text, pixel_values=pixels, labels=text["input_ids"]).loss
        value.backward()
        optimisers[1].step()
        optimisers[1].zero_grad()
        losses[1].append(value.item())

    seconds = [timed(their_step, 3), timed(our_step, 3)]
    lengths = text["attention_mask"].sum(1)
    print(
        f"training step, batch {batch}, texts of {lengths.float().mean():.0f} tokens on average, "
        f"longest {lengths.max()}: open_clip {seconds[0]['wall']:.1f} s wall "
        f"{seconds[0]['cpu']:.1f} s CPU; ours {seconds[1]['wall']:.1f} s wall "
        f"{seconds[1]['cpu']:.1f} s CPU: {seconds[0]['wall'] / seconds[1]['wall']:.2f}x wall "
        f"{seconds[0]['cpu'] / seconds[1]['cpu']:.2f}x CPU; losses {losses}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["parity", "generate", "throughput", "train"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--long", action="store_true", help="also 76 tokens")
    parser.add_argument("--case", action="append", help="generate: only this search; repeatable")
    parser.add_argument("--batch", type=int, default=16, help="of the training step")
    parser.add_argument("--models", type=int, default=8, help="random models of the parity check")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        open_clip_side(arguments.peer)
        return 0
    threads = arguments.threads
    torch.set_num_threads(threads)
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}", flush=True)
    fine = True
    if "parity" in arguments.parts:
        fine = parity(threads, TINY, arguments.models, [(29, 30), (75, 76), (5, 30)])
    if "generate" in arguments.parts:
        generate(threads, arguments.long, arguments.case)
    if "train" in arguments.parts:
        train(threads, arguments.batch)
    if "throughput" in arguments.parts:
        throughput(threads)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
