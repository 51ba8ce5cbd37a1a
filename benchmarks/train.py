"""Training embedders against the starting point's loop: data path, steps, and frozen backbones.

The peer is the loop of mddunlap924/StableDiffusion2-Image-to-Text, written again: the dataset calls
an image processor of transformers for each image, images are decoded at full size, float32 tensors
are stacked, the collate function encodes the prompts by MiniLM on the CPU in every epoch, AdamW
trains all parameters in fp32, and metrics go through ``.cpu().numpy()`` at every step. Both sides
get the same images, backbone, batch size and threads, with random weights, which cost the same. The
loader decodes in the training process on both sides.

    python benchmarks/train.py [data] [steps] [frozen] [--threads 2] [--images 256]
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPImageProcessor, CLIPImageProcessorPil
from transformers.trainer_callback import TrainerCallback

from unprompt.encoding import DEFAULT_ENCODER, encode
from unprompt.encoding.sources import find_source
from unprompt.models.preprocessing import Preprocessing
from unprompt.pairs.table import PairsTable, load
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.recipe import Data, Model, Optimiser, Recipe, Schedule
from unprompt.training.resources import freed_memory_kept

SHARED = Path(__file__).resolve().parents[2] / "shared"
BACKBONES = {"vit_small_patch16_224": (16, 3), "mobilenet_edgetpu_100": (32, 5)}
"""Batch size and timed steps of each."""
SIZE = 224
RUNS = (5, 10)
"""Epochs of whole runs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["data", "steps", "frozen"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--steps", type=int, help="timed steps, instead of each backbone's own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = real_pairs(options.images)
        # A cache of its own from here on, so that the first pass is a first pass.
        os.environ["UNPROMPT_CACHE"] = str(Path(folder) / "cache")
        print(
            f"torch {torch.__version__}, {options.threads} threads; {len(table)} pairs", flush=True
        )
        if "data" in options.parts:
            data_path(table, Path(folder))
        torch.set_num_threads(options.threads)
        if "steps" in options.parts:
            for name, (batch, steps) in BACKBONES.items():
                training_steps(table, name, batch, options.steps or steps, Path(folder))
        if "frozen" in options.parts:
            frozen_epochs(table, Path(folder))


def real_pairs(count: int) -> PairsTable:
    """Real pairs, drawn over all sources, with embeddings."""
    table = load(SHARED / "pairs/pairs.jsonl")
    rows = np.random.default_rng(0).permutation(len(table))[:count]
    table = table.take(np.sort(rows))
    return table.with_columns({"embedding": encode(table.prompts, precision="fp32")})


def scaled_up(table: PairsTable, suffix: str, side: int, folder: Path) -> PairsTable:
    """The same pictures at the size and in the format that a generator writes."""
    folder.mkdir()
    pairs = []
    for row, pair in enumerate(table):
        image = table.open_image(row)
        scale = side / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        name = f"{row:05}.{suffix}"
        image.resize(size, Image.Resampling.BICUBIC).save(folder / name, quality=90)
        pairs.append(replace(pair, file=name))
    made = PairsTable.from_pairs(pairs, folder, suffix)
    return made.with_columns({"embedding": table.embeddings})


# ---- the starting point's side ----


class TheirDataset(Dataset):
    """Decodes at full size and calls the image processor for each image."""

    def __init__(self, table: PairsTable, processor: Any):
        self.files = [str(table.root / file) for file in table.column("file")]
        self.prompts = table.prompts
        self.processor = processor

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, str]:
        image = Image.open(self.files[row]).convert("RGB")
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"].squeeze(0)
        return pixels, self.prompts[row]


class TheirCollate:
    """Stacks images; encodes prompts where there is an encoder."""

    def __init__(self, encoder: Any = None):
        self.encoder = encoder

    def __call__(  # noqa: D102
        self, batch: list[tuple[torch.Tensor, str]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images, prompts = zip(*batch, strict=True)
        if self.encoder is None:
            return torch.stack(images), torch.empty(0)
        target = self.encoder.encode(list(prompts), show_progress_bar=False, convert_to_tensor=True)
        return torch.stack(images), target


def their_steps(
    table: PairsTable, backbone: str, batch: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds a step of the starting point's loop, of the clock and of processors.

    Returns:
        Those of a whole step, and those of its forward and backward pass alone.
    """
    import timm
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(0)
    encoder = SentenceTransformer(str(find_source(DEFAULT_ENCODER)), device="cpu")
    data = TheirDataset(table, CLIPImageProcessor())
    loader = DataLoader(data, batch, shuffle=True, collate_fn=TheirCollate(encoder), drop_last=True)
    model = timm.create_model(backbone, num_classes=384)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=1e-6)
    criterion = nn.CosineEmbeddingLoss()
    times, passes = [now()], []
    for images, target in endless(loader):
        optimiser.zero_grad()
        started = now()
        output = model(images)
        loss = criterion(output, target.clone(), torch.ones(len(images)))
        loss.backward()
        passes.append(now() - started)
        optimiser.step()
        schedule.step()
        predicted, true = output.detach().cpu().numpy(), target.cpu().numpy()
        norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(true, axis=1)
        _ = float(((predicted * true).sum(axis=1) / norms).mean()), loss.item()
        times.append(now())
        if len(times) == steps + 3:
            break
    return (times[-1] - times[2]) / steps, np.mean(passes[2:], axis=0)


def now() -> np.ndarray:
    """Seconds of the clock, and of this process on all processors."""
    return np.array([time.perf_counter(), time.process_time()])


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


# ---- our side ----


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[np.ndarray] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:  # noqa: D102
        self.times.append(now())


def recipe_of(
    backbone: str, batch: int, steps: int, folder: Path, patch_dropout: float = 0.0
) -> Recipe:
    return Recipe(
        output=str(folder / f"run-{backbone}-{patch_dropout}"),
        data=Data(table="", augment="none", workers=0),
        model=Model(backbone=f"timm/{backbone}", pretrained=False, patch_dropout=patch_dropout),
        optimiser=Optimiser(learning_rate=1e-4, head_learning_rate=1e-4),
        schedule=Schedule(max_steps=steps, batch_size=batch, evaluations=1),
    )


def our_steps(
    table: PairsTable,
    backbone: str,
    batch: int,
    steps: int,
    folder: Path,
    patch_dropout: float = 0.0,
) -> tuple[np.ndarray, float]:
    """The same of our trainer, loading and logging included; images were decoded before.

    Returns:
        Seconds of a step, and its operations as `operations` counts them.
    """
    from unprompt.training.embedder_trainer import EmbedderTrainer
    from unprompt.training.train_embedder import build, prepare_backbone

    torch.manual_seed(0)
    recipe = recipe_of(backbone, batch, steps + 2, folder, patch_dropout)
    Path(recipe.output).mkdir()
    model = build(recipe, 384)
    prepare_backbone(model, recipe)
    work = operations(copy.deepcopy(model.backbone), batch)
    data = PairsDataset(table, model.preprocessing, recipe.data)
    data.images.keep()
    trainer = EmbedderTrainer(
        recipe, model, data, PairsDataset(table.take([0]), model.preprocessing)
    )
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    clock = Clock()
    trainer.add_callback(clock)
    with freed_memory_kept():  # as `run.train` does
        trainer.train()
    return (clock.times[-1] - clock.times[1]) / steps, work


# ---- the three measurements ----


def data_path(table: PairsTable, folder: Path) -> None:
    """Images per second of one core's time, from file to a batch that the network takes."""
    torch.set_num_threads(1)
    tables = {
        "WebP, 256 px, as it is": table,
        "JPEG, 512 px": scaled_up(table, "jpg", 512, folder / "jpg"),
        "PNG, 512 px": scaled_up(
            table.take(range(min(96, len(table)))), "png", 512, folder / "png"
        ),
    }
    preprocessing, plain = Preprocessing(SIZE), Data(table="", augment="none")
    heads = ["theirs", "theirs, Pillow", "ours, 1st epoch", "after"]
    heads += [f"all {epochs} epochs" for epochs in RUNS]
    print(f"\n| images a second of one core | {' | '.join(heads)} |")
    print("|---" * (1 + len(heads)) + "|", flush=True)
    for name, data in tables.items():

        def theirs(processor: Any, data: PairsTable = data) -> Callable[[], None]:
            loader = DataLoader(TheirDataset(data, processor), 32, collate_fn=TheirCollate())
            return lambda: [None for _ in loader] and None

        rates = [rate(theirs(CLIPImageProcessor()), len(data))]
        rates.append(rate(theirs(CLIPImageProcessorPil()), len(data)))
        with freed_memory_kept():  # as `run.train` does
            seconds = our_epochs(PairsDataset(data, preprocessing, plain), max(RUNS))
        rates += [len(data) / seconds[0], len(data) * (len(seconds) - 1) / sum(seconds[1:])]
        rates += [len(data) * epochs / sum(seconds[:epochs]) for epochs in RUNS]
        shown = (f"{r:.0f} ({r / rates[0]:.1f}x)" for r in rates)
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


def our_epochs(data: PairsDataset, epochs: int) -> list[float]:
    """Processor time of each epoch of a run by default, which keeps what it decodes first."""
    mean, std = torch.rand(3, 1, 1), 1 + torch.rand(3, 1, 1)
    seconds = []
    for epoch in range(epochs):
        started = time.process_time()
        if not epoch:
            data.images.keep()
        for batch in DataLoader(data, 32):
            # What a device does for us is done here by the same core, as `Embedder` does it.
            batch["pixels"].float().sub_(mean).div_(std)
        seconds.append(time.process_time() - started)
    return seconds


def rate(run: Callable[[], None], images: int) -> float:
    """Images per second of processor time, after a first time that is not counted."""
    run()
    started = time.process_time()
    run()
    return images / (time.process_time() - started)


def training_steps(table: PairsTable, name: str, batch: int, steps: int, folder: Path) -> None:
    import timm

    theirs, passes = their_steps(table, name, batch, steps)
    with torch.device("meta"):
        their_work = operations(timm.create_model(name, num_classes=384), batch)
    print(f"\n{name}, batch {batch}, {SIZE} px, {steps} steps, images a second:", flush=True)
    for dropout in (0.0, 0.5) if name.startswith("vit") else (0.0,):
        ours, work = our_steps(table, name, batch, steps, folder, dropout)
        print(
            f"theirs {batch / theirs[0]:.1f}, ours {batch / ours[0]:.1f} "
            f"({theirs[0] / ours[0]:.2f}x); of processor time {batch / theirs[1]:.1f}, "
            f"{batch / ours[1]:.1f} ({theirs[1] / ours[1]:.2f}x); {work:.0f} G operations, theirs "
            f"{their_work:.0f}"
            + (f"; patch_dropout={dropout}, another computation" if dropout else ""),
            flush=True,
        )
    rate = product_rate()
    print(
        f"forward and backward pass are {passes[0] / theirs[0]:.0%} of their step, at "
        f"{their_work / passes[0]:.0f} G operations a second, where a bare product of matrices "
        f"runs at {rate:.0f}; products alone would be {theirs[0] * rate / their_work:.2f}x a step",
        flush=True,
    )


def operations(network: nn.Module, batch: int) -> float:
    """Floating-point operations of the products and convolutions of a step, in 10^9."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network.to("meta").train()(torch.rand(batch, 3, SIZE, SIZE)).sum().backward()
    return counter.get_total_flops() / 1e9


def product_rate() -> float:
    """10^9 operations a second of float32 products, of the shapes of a ViT-S/16."""
    tokens, width, hidden = 16 * 197, 384, 1536
    left, right = torch.rand(tokens, width), torch.rand(width, hidden)
    output = left @ right
    started = time.perf_counter()
    for _ in range(100):
        torch.mm(left, right, out=output)
    return 100 * 2 * tokens * width * hidden / 1e9 / (time.perf_counter() - started)


def frozen_epochs(table: PairsTable, folder: Path) -> None:
    """Epochs of a head on a frozen backbone: the first, which computes features, and the next."""
    from unprompt.training.head.gradient import fit_by_gradient
    from unprompt.training.train_embedder import build

    recipe = recipe_of("mobilenet_edgetpu_100", 32, 1, folder)
    model = build(recipe, 384).eval()
    val = table.take(range(8))
    fit_by_gradient(model, val, val, epochs=1)  # loads what is loaded once
    started = time.perf_counter()
    fit_by_gradient(model, table, val, epochs=1, batch_size=32)
    first = time.perf_counter() - started
    started = time.perf_counter()
    fit_by_gradient(model, table, val, epochs=101, batch_size=32)
    more = time.perf_counter() - started
    started = time.perf_counter()
    fit_by_gradient(model, table, val, epochs=1, batch_size=32)
    later = (more - (time.perf_counter() - started)) / 100
    print(
        f"\nhead on a frozen mobilenet_edgetpu_100, {len(table)} pairs: first epoch {first:.2f} s, "
        f"each after it {later:.4f} s ({first / later:.0f}x)",
        flush=True,
    )


if __name__ == "__main__":
    main()
