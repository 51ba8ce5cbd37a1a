"""A head pre-trained from prompts alone, on a contrastive pair of small towers trained here.

No CLIP weights are at hand, so a pair is trained first: EfficientNet-Lite0 (../shared/backbones),
locked, with a projection, and a small text transformer, contrastively on the training split of
../shared/pairs (LiT; Zhai et al. 2021, arXiv 2111.07991). It is saved as a model of open_clip. Then
`pretrain` fits heads to prompts without images, and the image tower with each head is scored on
images of groups that neither the pair nor the heads have seen.

    python benchmarks/text_head.py [--pair FOLDER] [--steps 600] [--others 2000] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from unprompt.encoding import encode
from unprompt.evaluating.metrics import cosines, mean_with_interval
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.bank import unit
from unprompt.models.embedder import Embedder, EmbedderConfig, HeadConfig
from unprompt.pairs.split import split_by_group
from unprompt.pairs.table import PairsTable, load
from unprompt.pairs.text import read_lines
from unprompt.training.features import features_of
from unprompt.training.probe import best_ridge
from unprompt.training.text_head import pretrain

SHARED = Path(__file__).resolve().parents[2] / "shared"
OTHERS = ("imagereward_refl_diffusiondb", "t2i_compbench", "tifa_text_inputs", "partiprompts")
SIZE, DIM, BATCH = 128, 128, 256
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
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--others", type=int, default=2000)
    parser.add_argument("--images", type=int, default=1000, help="pairs for the head with images")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = load(SHARED / "pairs/pairs.jsonl")
    table = table.with_columns({"embedding": encode(table.prompts, precision="fp32")})
    table = split_by_group(table, 0.05, 0.1, 0.7, seed=42).table
    train, test = table.of_split("train"), table.of_split("test")
    some = train.take(np.random.default_rng(1).permutation(len(train))[: options.images])
    if not (options.pair / "open_clip_config.json").exists():
        train_pair(train, options.pair, options.steps)
    name = f"open_clip/local-dir:{options.pair}"

    # What was seen by the pair and by the head, and what by neither.
    backbone = create_backbone(BackboneConfig(name))
    shared_space = Embedder(
        EmbedderConfig(backbone.config, HeadConfig(normalise=True)), backbone
    ).eval()
    of_test = features_of(shared_space, test)
    of_train = features_of(shared_space, some)
    true = test.embeddings[of_test.rows]
    groups = np.array(test.column("group"))[of_test.rows]
    random = np.random.default_rng(0)
    others = list(dict.fromkeys(p for f in OTHERS for p in read_lines(SHARED / f"prompts/{f}.txt")))
    others = [others[row] for row in random.permutation(len(others))[: options.others]]
    seen = sorted(set(train.prompts))

    def row(what: str, predicted: np.ndarray) -> None:
        print(f"| {what} | {mean_with_interval(cosines(predicted, true), groups)} |", flush=True)

    print(f"{len(train)} training pairs, {len(seen)} prompts; {len(test)} test pairs")
    print(f"| head on the small pair's image tower, {len(true)} test pairs | cosine |\n|---|---|")
    row("mean embedding of the training prompts", np.tile(train.embeddings.mean(0), (len(true), 1)))
    drawn = random.integers(len(train), size=len(true))
    row("random training prompt", train.embeddings[drawn])
    values = unit(of_test.values)
    for title, prompts in (
        (f"{len(seen)} prompts of the training split", seen),
        (f"{len(others)} prompts of other sources", others),
    ):
        for noise in (0.0, 0.03, 0.1):
            fitted = pretrain(name, prompts, noise=noise)
            with torch.inference_mode():
                predicted = fitted.embedder.head(torch.from_numpy(values)).numpy()
            texts = f"on held-out texts {fitted.cosine:.3f}"
            row(f"text only, {title}; noise {noise} ({texts})", predicted)
    known = unit(of_train.values)
    _, _, weight, bias = best_ridge(known, some.embeddings[of_train.rows], values, true)
    title = f"with {len(known)} images: ridge on the same features (penalty by the test)"
    row(title, values @ weight.T + bias)


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
    for step in range(steps):
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
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    stated = {"model_cfg": CONFIG, "preprocess_cfg": HALF}
    (folder / "open_clip_config.json").write_text(json.dumps(stated))


if __name__ == "__main__":
    main()
