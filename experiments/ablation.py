"""The starting point's recipe against ours on real pairs, and ours with each part off.

All runs have the same pairs, steps, batch, input size and pretrained backbone
(mobilenet_edgetpu_100), and differ in the recipe only. For each of three seeds one source is left
out whole, and whole groups of near-duplicate prompts of the other sources; both are scored. The
starting point's recipe: a random split chooses its checkpoint, AdamW at 1e-4 to 1e-6 for all
parameters, a linear head from random weights, no warm-up, no weight average, no augmentation.

    python experiments/ablation.py [--runs FOLDER] [--steps 100] [--seeds 0 1 2] [--only NAME ...]

Finished runs are not run again, and a killed run continues. The script ends with the table of all
finished runs.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from pathlib import Path

import numpy as np
import torch

from unprompt.curating.split import split_by_group
from unprompt.encoding import encode
from unprompt.evaluating.metrics import cosines, mean_with_interval
from unprompt.files import atomic_open
from unprompt.models.embedder import Embedder
from unprompt.pairs.table import PairsTable, load, save
from unprompt.predicting.embedding_model import TorchModel
from unprompt.training.data.images import TrainingImages
from unprompt.training.embedder_trainer import EmbedderTrainer
from unprompt.training.head.linear_probe import fit_linear_probe
from unprompt.training.recipe import Recipe, load_recipe
from unprompt.training.train_embedder import build
from unprompt.training.trainer import last_checkpoint, train_to_end

SHARED = Path(__file__).resolve().parents[2] / "shared"
SIZE = 112
PER_SOURCE = 600
"""Pairs of a source at most, so that no source's template is most of what is learned."""

LEFT_OUT = ("midjourney", "AI-Horde", "andygock")
"""Part of the name of the source that is left out, for each seed."""

COMMON = {
    "data.workers": 0,
    "model.backbone": "timm/mobilenet_edgetpu_100",
    "model.checkpoint": str(SHARED / "backbones/mobilenet_edgetpu_100.safetensors"),
    "model.arguments.pad_type": "same",
    "model.size": SIZE,
    "model.mean": [0.5, 0.5, 0.5],
    "model.std": [0.5, 0.5, 0.5],
    "schedule.batch_size": 32,
    "schedule.evaluations": 2,
    "schedule.keep": 1,
}
OURS = {
    "data.augment": "mild",
    "data.sample_by": "prompt",
    "optimiser.learning_rate": 1e-4,
    "optimiser.head_learning_rate": 1e-4,
    "optimiser.layer_decay": 0.9,
    "optimiser.ema": 0.98,
    "optimiser.warmup": 0.1,
    "optimiser.frozen_statistics": True,
    "schedule.linear_probe": True,
}
THEIRS = {
    "data.augment": "none",
    "optimiser.learning_rate": 1e-4,
    "optimiser.head_learning_rate": 1e-4,
    "optimiser.weight_decay": 0.01,
    "optimiser.warmup": 0.0,
    "optimiser.final": 0.01,
    "optimiser.max_grad_norm": 0,
}
VARIANTS = {
    "starting point": THEIRS,
    "ours": OURS,
    "without LP (random head)": OURS | {"schedule.linear_probe": False},
    "without frozen statistics": OURS | {"optimiser.frozen_statistics": False},
    "without layer decay": OURS | {"optimiser.layer_decay": 1.0},
    "without EMA": OURS | {"optimiser.ema": 0.0},
    "without augmentation": OURS | {"data.augment": "none"},
    "without drawing by prompt": OURS | {"data.sample_by": "pair"},
    "without warm-up": OURS | {"optimiser.warmup": 0.0},
    "LP alone, no fine-tuning": OURS,
}


MAIN = ("starting point", "ours")
ABLATION_SEEDS = (0,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = [(name, seed) for seed in options.seeds for name in MAIN]
    plan += [(name, seed) for name in VARIANTS if name not in MAIN for seed in ABLATION_SEEDS]
    for name, seed in plan:
        if name in options.only and seed in options.seeds:
            run(name, seed, options.steps, options.runs)
    show(options.runs, options.steps)


def data(seed: int, folder: Path) -> tuple[PairsTable, PairsTable]:
    """Pairs with embeddings, groups and splits; and those of the source left out."""
    paths = folder / f"pairs-{seed}.parquet", folder / f"left-out-{seed}.parquet"
    if not paths[1].exists():
        table = load(SHARED / "pairs/pairs.jsonl")
        source = np.array(table.column("source"))
        random = np.random.default_rng(0)
        chosen = [
            random.permutation(np.flatnonzero(source == name))[:PER_SOURCE]
            for name in sorted(set(source))
        ]
        table = table.take(np.sort(np.concatenate(chosen)))
        table = table.with_columns({"embedding": encode(table.prompts, precision="fp32")})
        left = np.array([LEFT_OUT[seed] in name for name in table.column("source")])
        grouped = split_by_group(table.where(~left), 0.1, 0.15, 0.7, seed).table
        # The prompts left out are grouped too, for the interval's sake.
        others = split_by_group(table.where(left), 0, 0, 0.7, seed).table
        folder.mkdir(parents=True, exist_ok=True)
        for part, path in zip((grouped, others), paths, strict=True):
            save(part, path)
    return load(paths[0]), load(paths[1])


def run(name: str, seed: int, steps: int, folder: Path) -> None:
    """One run of one variant, scored; nothing when it was done before."""
    place = folder / f"{steps}" / name.replace(" ", "-").replace(",", "") / str(seed)
    place.mkdir(parents=True, exist_ok=True)
    lock = (place / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another process is at it
    if (place / "scores.json").exists():
        return
    table, left_out = data(seed, folder)
    test = table.of_split("test")
    kept = table.where(np.array(table.column("split")) != "test")
    if name == "starting point":
        # The same pairs, split at random: prompts of its val are in its train.
        order = np.random.default_rng(seed).permutation(len(kept))
        val = set(order[: len(kept.of_split("val"))].tolist())
        kept = kept.with_columns(
            {"split": ["val" if row in val else "train" for row in range(len(kept))]}
        )
    settings = COMMON | VARIANTS[name]
    stated = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    stated += [f"output={place}", f"seed={seed}", f"schedule.max_steps={steps}", "data.table=x"]
    (place / "empty.yaml").write_text("{}")
    recipe = load_recipe(place / "empty.yaml", stated)
    started = time.process_time()
    model = trained(recipe, kept, place, fine_tune=name != "LP alone, no fine-tuning")
    took = time.process_time() - started
    scores = {"seconds": took, "test": scored(model, test), "left out": scored(model, left_out)}
    with atomic_open(place / "scores.json") as file:
        json.dump(scores, file)
    means = {key: round(float(np.mean(scores[key])), 4) for key in ("test", "left out")}
    print(f"{name}, seed {seed}: {means}, {took:.0f} s", flush=True)


def trained(recipe: Recipe, table: PairsTable, place: Path, fine_tune: bool) -> Embedder:
    """What `unprompt.training.run.train` does, up to the model that scored best on val."""
    from unprompt.training.data.dataset import PairsDataset

    torch.manual_seed(recipe.seed)
    model = build(recipe, table.embeddings.shape[1])
    train, val = table.of_split("train"), table.of_split("val")
    checkpoint = last_checkpoint(place)
    if recipe.schedule.linear_probe and checkpoint is None:
        fit_linear_probe(model, train, val)
    if not fine_tune:
        return model.eval()
    train_set = PairsDataset(train, model.preprocessing, recipe.data)
    val_set = PairsDataset(val, model.preprocessing)
    for data in (train_set, val_set):
        data.images.keep()
    trainer = EmbedderTrainer(recipe, model, train_set, val_set)
    train_to_end(trainer, checkpoint)
    return Embedder.from_pretrained(trainer.best_checkpoint())


def scored(model: Embedder, table: PairsTable) -> list[float]:
    """Cosine of each pair."""
    images = TrainingImages(table, model.preprocessing, whole=True).keep()
    batches = np.array_split(range(len(table)), range(32, len(table), 32))
    run = TorchModel(model, "", Path()).run
    outputs = [run(np.stack([images.pixels(int(row)) for row in rows]))[0] for rows in batches]
    return cosines(np.concatenate(outputs), table.embeddings).tolist()


def show(folder: Path, steps: int) -> None:
    """The table: score, and what is lost against ours on the same pairs, with intervals."""
    print("| | runs | held-out groups | less than ours | source left out | less than ours |")
    print("|---|---|---|---|---|---|")
    for name in VARIANTS:
        cells = []
        seeds = []
        for part in ("test", "left out"):
            values, lost, groups = [], [], []
            for seed in range(len(LEFT_OUT)):
                found = folder / f"{steps}" / name.replace(" ", "-").replace(",", "") / str(seed)
                ours = folder / f"{steps}" / "ours" / str(seed)
                if not (found / "scores.json").exists():
                    continue
                seeds.append(seed)
                mine = np.array(json.loads((found / "scores.json").read_text())[part])
                best = np.array(json.loads((ours / "scores.json").read_text())[part])
                table, left_out = data(seed, folder)
                pairs = table.of_split("test") if part == "test" else left_out
                values.append(mine)
                lost.append(best - mine)
                groups.append(np.array(pairs.column("group")) + seed * 10**6)
            if values:
                of = np.concatenate(groups)
                cells.append(str(mean_with_interval(np.concatenate(values), of)))
                cells.append(str(mean_with_interval(np.concatenate(lost), of)))
        if cells:
            print(f"| {name} | {len(set(seeds))} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
