"""A head pre-trained from prompts alone, on a contrastive pair of small towers trained here.

No CLIP weights are at hand, so a pair is trained first: EfficientNet-Lite0 (../shared/backbones),
locked, with a projection, and a small text transformer, contrastively on the training split of
../shared/pairs (LiT; Zhai et al. 2021, arXiv 2111.07991). It is saved as a model of open_clip. Then
`fit_zero_shot_head` fits heads to prompts without images, and the image tower with each head is
scored on images of groups that neither the pair nor the heads have seen. Last, the whole is
fine-tuned on images from the head that prompts gave, and from a random one.

    python experiments/text_head.py [--pair FOLDER] [--steps 600] [--tune 100] [--threads 1]

A killed call goes on from the last hundred steps of the pair, and from the last checkpoint of a
fine-tuning.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from unprompt.curating.split import split_by_group
from unprompt.encoding import encode
from unprompt.evaluating.metrics import cosines, mean_with_interval
from unprompt.files import atomic_path
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.bank.bank import unit
from unprompt.models.embedder import Embedder, EmbedderConfig
from unprompt.models.heads import HeadConfig, create_head
from unprompt.pairs.prompt_file import prompts_of
from unprompt.pairs.table import PairsTable, load
from unprompt.training.data.features import features_of
from unprompt.training.head.ridge import best_ridge
from unprompt.training.head.zero_shot import fit_zero_shot_head
from unprompt.training.merge_weights import score
from unprompt.training.recipe import Data, Model, Optimiser, Recipe, Schedule
from unprompt.training.train_embedder import create_trainer
from unprompt.training.trainer import last_checkpoint, train_to_end

SHARED = Path(__file__).resolve().parents[2] / "shared"
OTHERS = ("imagereward_refl_diffusiondb", "t2i_compbench", "tifa_text_inputs", "partiprompts")
SIZE, DIM, BATCH, SAVE_EVERY = 128, 128, 256, 100
CONFIG = {
    "embed_dim": DIM,
    "vision_cfg": {
        "image_size": SIZE,
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
    },
    "text_cfg": {"context_length": 40, "width": 128, "heads": 4, "layers": 2},
}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", type=Path, default=Path("runs/small-pair"))
    parser.add_argument("--steps", type=int, default=600, help="of the pair's training")
    parser.add_argument("--others", type=int, default=2000)
    parser.add_argument("--images", type=int, default=1000, help="pairs for the head with images")
    parser.add_argument("--tune", type=int, default=100, help="steps of fine-tuning, of 32 pairs")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = load(SHARED / "pairs/pairs.jsonl")
    table = table.with_columns({"embedding": encode(table.prompts, precision="fp32")})
    table = split_by_group(table, 0.05, 0.1, 0.7, seed=42).table
    train, test = table.of_split("train"), table.of_split("test")
    if not (options.pair / "open_clip_config.json").exists():
        train_pair(train, options.pair, options.steps)
    name = f"open_clip/local-dir:{options.pair}"
    print(f"{len(train)} training pairs, {len(test)} test pairs\n| | cosine |\n|---|---|")
    zero_shot = of_heads(name, table, options.images, options.others)
    without = copy.deepcopy(zero_shot)
    torch.manual_seed(0)
    shape = zero_shot.architecture
    without.head = create_head(shape.head, zero_shot.backbone.dim, shape.dim)
    for what, model in (("the text-only head", zero_shot), ("a random head", without)):
        tuned = fine_tuned(model, table, options.pair.parent / what.replace(" ", "-"), options.tune)
        print(
            f"| fine-tuned from {what}, {options.tune} steps | {score(tuned, test)} |", flush=True
        )


def of_heads(name: str, table: PairsTable, images: int, others: int) -> Embedder:
    """Scores of heads on the pair's image tower; the embedder with that of the training prompts."""
    train, test = table.of_split("train"), table.of_split("test")
    backbone = create_backbone(BackboneConfig(name))
    config = EmbedderConfig(backbone.config, HeadConfig(normalise=True))
    torch.manual_seed(0)
    shared_space = Embedder(config, backbone).eval()
    of_test = features_of(shared_space, test)
    true = test.embeddings[of_test.rows]
    groups = np.array(test.column("group"))[of_test.rows]
    random = np.random.default_rng(0)

    def row(what: str, predicted: np.ndarray) -> None:
        print(f"| {what} | {mean_with_interval(cosines(predicted, true), groups)} |", flush=True)

    def answers(model: Embedder) -> np.ndarray:
        with torch.inference_mode():
            return model.embed(torch.from_numpy(of_test.values)).numpy()

    row("mean embedding of the training prompts", np.tile(train.embeddings.mean(0), (len(true), 1)))
    row("random training prompt", train.embeddings[random.integers(len(train), size=len(true))])
    row("random head", answers(shared_space))
    seen = sorted(set(train.prompts))
    unseen = list(dict.fromkeys(p for f in OTHERS for p in prompts_of(SHARED / f"prompts/{f}.txt")))
    unseen = [unseen[place] for place in random.permutation(len(unseen))[:others]]
    fitted = {}
    for title, prompts in (("the training split", seen), ("other sources", unseen)):
        for noise in (0.0, 0.03, 0.1):
            made = fitted[title, noise] = fit_zero_shot_head(name, prompts, noise=noise)
            what = f"text only, {len(prompts)} prompts of {title}, noise {noise}"
            row(f"{what} (on held-out texts {made.cosine:.3f})", answers(made.embedder))
    some = train.take(np.random.default_rng(1).permutation(len(train))[:images])
    of_train = features_of(shared_space, some)
    known, values = unit(of_train.values), unit(of_test.values)
    weights, _, _ = best_ridge(known, of_train.embeddings, values, true)
    title = f"with {len(known)} images: ridge on the same features (penalty by the test)"
    row(title, weights(values))
    return fitted["the training split", 0.03].embedder


def fine_tuned(model: Embedder, table: PairsTable, folder: Path, steps: int) -> Embedder:
    """The model after some steps on images, at its best look on val."""
    if not (folder / "start").exists():
        model.save_pretrained(folder / "start")
    recipe = Recipe(
        output=str(folder),
        data=Data(table="", workers=0),
        model=Model(start=str(folder / "start")),
        optimiser=Optimiser(learning_rate=1e-4, layer_decay=0.9, frozen_statistics=True),
        schedule=Schedule(max_steps=steps, batch_size=32, evaluations=2),
    )
    trainer = create_trainer(recipe, table)
    train_to_end(trainer, last_checkpoint(folder))
    return Embedder.from_pretrained(trainer.best_checkpoint())


def train_pair(train: PairsTable, folder: Path, steps: int) -> None:
    """Train projection and text tower on the locked trunk's features; write a folder."""
    torch.manual_seed(0)
    weights = SHARED / "backbones/tf_efficientnet_lite0.safetensors"
    trunk = create_backbone(
        BackboneConfig("timm/tf_efficientnet_lite0"), checkpoint=weights, size=SIZE
    )
    found = features_of(Embedder(EmbedderConfig(trunk.config), trunk), train)
    model = open_clip.CLIP(**CONFIG)
    model.visual.trunk.load_state_dict(load_file(weights), strict=True)
    rows_of: dict[str, list[int]] = {}
    prompts = train.prompts
    for place, number in enumerate(found.rows):
        rows_of.setdefault(prompts[number], []).append(place)
    texts = sorted(rows_of)
    tokens = open_clip.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])(texts)
    features = torch.from_numpy(found.values)
    learn = [p for n, p in model.named_parameters() if not n.startswith("visual.trunk")]
    optimiser = torch.optim.AdamW(learn, lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps, pct_start=0.1)
    random = np.random.default_rng(0)
    order: list[int] = []
    first = 0
    state = {"model": model, "optimiser": optimiser, "schedule": schedule}
    saved = folder / "going.pt"
    if saved.exists():
        kept = torch.load(saved, weights_only=False)
        for part, value in state.items():
            value.load_state_dict(kept[part])
        first, order, random = kept["step"], kept["order"], kept["random"]
    for step in range(first, steps):
        if len(order) < BATCH:
            order = random.permutation(len(texts)).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        images = features[[random.choice(rows_of[texts[place]]) for place in chosen]]
        image = F.normalize(model.visual.head(F.dropout(images, 0.2)), dim=-1)
        text = F.normalize(model.encode_text(tokens[chosen]), dim=-1)
        logits = model.logit_scale.exp() * image @ text.T
        target = torch.arange(len(chosen))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        model.logit_scale.data.clamp_(0, 4.6)
        if step % 50 == 0 or step == steps - 1:
            right = (logits.argmax(1) == target).float().mean()
            print(f"step {step}: loss {loss:.3f}, right of {len(chosen)}: {right:.3f}", flush=True)
        if (step + 1) % SAVE_EVERY == 0:
            kept = {part: value.state_dict() for part, value in state.items()}
            kept |= {"step": step + 1, "order": order, "random": random}
            with atomic_path(saved) as path:
                torch.save(kept, path)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    stated = {"model_cfg": CONFIG, "preprocess_cfg": HALF}
    (folder / "open_clip_config.json").write_text(json.dumps(stated))


if __name__ == "__main__":
    main()
