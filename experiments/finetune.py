"""Does fine-tuning the last blocks help on sources never seen, against the frozen backbone?

Run: python experiments/finetune.py [--run runs/builtin] [--folds runs/finetune] [--steps 150]

Both start from the head of classes that is fitted in closed form (recipes/builtin.yaml, without its
memory). The last two stages and the last convolution are tuned (with --head-rate also the head's
linear map), towards the prompt's embedding (1 - cosine, the style), while the classifier is held to
its earlier outputs (Kullback-Leibler, the content). A batch samples all sources alike, and within a
source all prompts. Up to 400 pairs of each set of ../shared/pairs are used. The outputs of the
frozen stages and each finished fold are kept in files.
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from unprompt.encoding import DEFAULT_ENCODER
from unprompt.errors import UnpromptError
from unprompt.evaluating.metrics import cosines, difference, mean_with_interval
from unprompt.files import atomic_open
from unprompt.models.bank.bank import unit
from unprompt.models.embedder import Embedder
from unprompt.models.heads import ClassesHead
from unprompt.pairs.prompt_file import prompts_of
from unprompt.pairs.table import PairsTable
from unprompt.progress import progress_bars, track
from unprompt.training.head.classes import fit_classes_head, set_classes
from unprompt.training.recipe import load_recipe
from unprompt.training.run import prepare
from unprompt.training.train_embedder import build

RECIPE = Path(__file__).parents[1] / "recipes" / "builtin.yaml"
RELATED = {"ai_horde_styles_previews2": "ai_horde_styles"}
FAMILIES = (
    "midjourney_profile_tester",
    "ai_horde_styles",
    "andygock_style_cheatsheet",
    "sd14_imagenet",
)
MOST, FROZEN, BATCH = 400, 5, 64
RATE = 3e-5


def main() -> None:
    """Tune fold by fold and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/builtin"))
    parser.add_argument("--folds", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--head-rate", type=float, default=0.0)
    options = parser.parse_args()
    recipe = load_recipe(RECIPE, ["model.head.prior=null", "model.head.landmarks=0"])
    users = prompts_of(str(load_recipe(RECIPE).model.head.prior))
    table = some_of(prepare(recipe, options.run))
    families = families_of(table)
    held = np.array(table.column("split")) != "train"
    lower = lower_outputs(build(recipe, dim=384).eval(), table, options.folds)
    for family in FAMILIES:
        path = options.folds / f"{family}.json"
        if not path.exists():
            torch.manual_seed(0)
            model = build(recipe, dim=384).eval()
            predictions = fold(model, lower, table, families == family, held, users, options)
            with atomic_open(path) as file:
                json.dump({name: values.tolist() for name, values in predictions.items()}, file)
    show(table, families, held, options.folds)


def families_of(table: PairsTable) -> np.ndarray:
    """Of each pair the set that it comes from, sets that share their scenes together."""
    sets = [name.split("/")[0] for name in table.column("id")]
    return np.array([RELATED.get(name, name) for name in sets])


def some_of(table: PairsTable) -> PairsTable:
    """Up to `MOST` pairs of each set, and what the split holds out with them."""
    order = np.random.default_rng(0).permutation(len(table))
    sets = np.array([name.split("/")[0] for name in table.column("id")])
    return table.take(
        sorted(int(row) for name in set(sets) for row in order[sets[order] == name][:MOST])
    )


def lower_outputs(model: Embedder, table: PairsTable, folder: Path) -> np.ndarray:
    """What comes out of the frozen stages, float16 (n, channels, height, width), kept in a file."""
    path = folder / "lower.npy"
    if not path.exists():
        network = model.backbone.network
        chunks = []
        openers = [partial(table.open_image, row, 448) for row in range(len(table))]
        for start in track(range(0, len(openers), BATCH), "Frozen stages"):
            try:
                pixels = [model.preprocessing(open_()) for open_ in openers[start : start + BATCH]]
            except UnpromptError as error:
                raise SystemExit(str(error)) from error
            with torch.inference_mode():
                batch = (torch.from_numpy(np.stack(pixels)) - model.mean) / model.std
                out = network.blocks[:FROZEN](network.bn1(network.conv_stem(batch)))
            chunks.append(out.to(torch.float16).numpy())
        with atomic_open(path, "wb") as file:
            np.save(file, np.concatenate(chunks))
    return np.load(path, mmap_mode="r")


class Upper(nn.Module):
    """The stages above the frozen ones."""

    def __init__(self, model: Embedder):
        super().__init__()
        network = model.backbone.network
        self.stages = nn.Sequential(
            *network.blocks[FROZEN:], network.conv_head, network.bn2, network.global_pool
        )

    def forward(self, lower: np.ndarray) -> torch.Tensor:
        """Features of a batch, (batch, width)."""
        features: torch.Tensor = self.stages(torch.from_numpy(lower.astype(np.float32)))
        return features


def features_of(upper: Upper, lower: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        parts = [upper(lower[start : start + 256]) for start in range(0, len(lower), 256)]
    return torch.cat(parts).numpy()


def fit(head: ClassesHead, classifier, features, table: PairsTable, rows, users) -> None:
    """The head in closed form, from the rows that may be known."""
    set_classes(head, classifier, DEFAULT_ENCODER, users)
    known = table.take(rows.tolist())
    sources = [source or "unknown" for source in known.column("source")]
    fit_classes_head(head, features[rows], unit(known.embeddings), sources, known.prompts)


def fold(
    model: Embedder,
    lower: np.ndarray,
    table: PairsTable,
    left_out: np.ndarray,
    held: np.ndarray,
    users: list[str],
    options: argparse.Namespace,
) -> dict[str, np.ndarray]:
    """Cosines of all pairs, for the frozen backbone, the tuned one, and it with a fitted head."""
    upper, head = Upper(model), model.head
    assert isinstance(head, ClassesHead)
    classifier = nn.Linear(head.classifier.in_features, head.classifier.out_features)
    classifier.load_state_dict(head.classifier.state_dict())
    rows = np.flatnonzero(~left_out & ~held)
    targets = torch.from_numpy(unit(table.embeddings)).float()
    frozen = features_of(upper, lower)
    fit(head, classifier, frozen, table, rows, users)

    def scored(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return cosines(head(torch.from_numpy(features)).numpy(), targets.numpy())

    predictions = {"frozen": scored(frozen)}
    said = torch.from_numpy(frozen)
    with torch.inference_mode():
        said = classifier(said).log_softmax(dim=1)
    said = said.clone()
    for parameter in head.parameters():
        parameter.requires_grad_(False)
    head.linear.requires_grad_(options.head_rate > 0)
    steps = options.steps
    groups = [
        {"params": list(upper.parameters()), "lr": RATE},
        {"params": list(head.linear.parameters()), "lr": options.head_rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [group["lr"] for group in groups], total_steps=steps, pct_start=0.1
    )
    for step, batch in enumerate(track(drawn(table, rows, steps), "Tuning", steps), 1):
        features = upper(lower[batch])
        style = (1 - F.cosine_similarity(head(features), targets[batch])).mean()
        says = head.classifier(features).log_softmax(dim=1)
        content = F.kl_div(says, said[batch], log_target=True, reduction="batchmean")
        optimiser.zero_grad()
        (style + content).backward()
        optimiser.step()
        schedule.step()
        if step in (steps // 2, steps):
            predictions[f"tuned, {step} steps"] = scored(features_of(upper, lower))
    tuned = features_of(upper, lower)
    fit(head, classifier, tuned, table, rows, users)
    predictions["tuned, head fitted again"] = scored(tuned)
    return predictions


def drawn(table: PairsTable, rows: np.ndarray, steps: int) -> Iterator[np.ndarray]:
    """Batches of rows in which sources count alike, and within a source its prompts."""
    sources = np.array([source or "unknown" for source in table.column("source")])[rows]
    prompts = np.array(table.prompts, dtype=object)[rows]
    shares = np.zeros(len(rows))
    for source in set(sources):
        own = np.flatnonzero(sources == source)
        _, which, counts = np.unique(prompts[own], return_inverse=True, return_counts=True)
        shares[own] = 1 / (counts[which] * len(counts))
    random = np.random.default_rng(0)
    for _ in range(steps):
        yield np.sort(random.choice(rows, BATCH, p=shares / shares.sum()))


def show(table: PairsTable, families: np.ndarray, held: np.ndarray, folder: Path) -> None:
    """For each fold the pairs left out and held-out groups of the other sources."""
    groups = np.array(table.column("group"))
    print(
        "| left out (pairs) | way | left out | less than frozen | held-out groups of the others |"
    )
    print("|---|---|---|---|---|")
    for family in FAMILIES:
        predictions = {
            k: np.array(v) for k, v in json.loads((folder / f"{family}.json").read_text()).items()
        }
        out, known = families == family, (families != family) & held
        for name, values in predictions.items():
            lost = difference(predictions["frozen"][out], values[out], groups[out])
            score = mean_with_interval(values[out], groups[out])
            others = mean_with_interval(values[known], groups[known])
            print(f"| {family} ({out.sum()}) | {name} | {score} | {lost} | {others} |")


if __name__ == "__main__":
    with progress_bars():
        main()
