"""Images per second: our defaults, plain diffusers, and our defaults with options switched off.

On a GPU it builds the architecture of Stable Diffusion 2 base with random weights, which cost the
same as trained ones, at 512 pixels. Without a GPU it runs on the small pipeline of the tests, to
show that it works; those figures say nothing about real models.

    python benchmarks/generate.py [--images 32]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.collecting.images.pipelines import build_tokenizer, save_sd
from unprompt.collecting.compose import compose
from unprompt.collecting.generate import image_seed, prompt_id
from unprompt.collecting.images.diffusion import Diffusion, DiffusionBackend
from unprompt.collecting.images.jobs import Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    chosen = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else "CPU, small pipeline of the tests"
    print(f"{device}; torch {torch.__version__}, diffusers {diffusers.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        path = save_sd2(Path(folder) / "sd2") if gpu else save_sd(Path(folder) / "sd")
        jobs = [
            Job(prompt, prompt_id(prompt), 0, image_seed(prompt, 0))
            for prompt in compose(chosen.images)
        ]
        few = jobs[: max(2, chosen.images // 8)]
        plain = {}
        for precision in ("fp32", "fp16") if gpu else ("fp32",):
            for steps in (50, 25):
                name = f"diffusers, batch 1, {precision}, {steps} steps"
                plain[name] = rate(lambda p=precision, s=steps: plainly(path, p, s, few), few)
        base = Diffusion(model=str(path))
        variants = {
            "unprompt": base,
            "  one at a time": replace(base, batch_size=1),
            "  50 steps": replace(base, steps=50),
            "  without channels last": replace(base, channels_last=False),
            "  in fp32": replace(base, precision="fp32"),
        }
        if gpu:
            variants["  compiled"] = replace(base, compile=True)
        ours = {name: rate(lambda o=o: generated(o, jobs), jobs) for name, o in variants.items()}
    for name, value in (plain | ours).items():
        print(f"{name:45} {value:9.3f} images/s")
    reference = list(plain.values())[2 if gpu else 0]
    equal = list(plain.values())[3 if gpu else 1]
    print(f"over batch 1 at 50 steps: {ours['unprompt'] / reference:.2f}")
    print(f"over batch 1 at equal steps: {ours['unprompt'] / equal:.2f}")


def rate(prepare: Any, jobs: list[Job]) -> float:
    """Images a second of the work that ``prepare`` returns, after one run to warm up."""
    work = prepare()
    work(jobs[:1])
    synchronise()
    start = time.perf_counter()
    work(jobs)
    synchronise()
    return len(jobs) / (time.perf_counter() - start)


def plainly(path: Path, precision: str, steps: int, jobs: list[Job]) -> Any:
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(path, dtype=dtype)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)

    def work(jobs: list[Job]) -> None:
        for job in jobs:
            pipeline(job.prompt, num_inference_steps=steps)

    return work


def generated(options: Diffusion, jobs: list[Job]) -> Any:
    backend = DiffusionBackend.from_pretrained(options)

    def work(jobs: list[Job]) -> None:
        for start in range(0, len(jobs), backend.batch_size):
            backend.draw(jobs[start : start + backend.batch_size])

    return work


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def save_sd2(folder: Path) -> Path:
    """Stable Diffusion 2 base: sizes from the configuration files of its model page."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder.with_name("tokenizer"))
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        eos_token_id=len(tokenizer) - 1,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ),
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
