"""A head fitted to prompts alone, which makes CLIP's image tower a zero-shot embedder.

CLIP maps an image and the text that describes it to nearby points. So a head that maps CLIP's
features of a prompt to its prompt embedding also maps CLIP's features of the image there, without
having seen an image: the 7th place of the Kaggle competition started from such a head. Prompts cost
nothing, so there can be a million of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from unprompt.devices import choose_device
from unprompt.encoding import encode
from unprompt.errors import UnpromptError
from unprompt.evaluating.metrics import cosines
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.embedder import Embedder, EmbedderConfig
from unprompt.models.heads import HeadConfig, create_head
from unprompt.models.text_towers import create_text_tower
from unprompt.pairs.prompt_file import prompts_of
from unprompt.predicting.public_weights import advice
from unprompt.training.head.gradient import train_head
from unprompt.training.head.linear_probe import last_layer
from unprompt.training.head.ridge import best_ridge

HELD_OUT = 0.05
"""Share of the prompts that score the head instead of fitting it."""


@dataclass(frozen=True)
class ZeroShotHead:
    """A head fitted to prompts alone.

    Attributes:
        embedder: the image tower with that head.
        cosine: mean cosine on held-out prompts, between the head's output for the text features
            and the prompt embedding.
        prompts: number of prompts that it was fitted to.
    """

    embedder: Embedder
    cosine: float
    prompts: int

    def __str__(self) -> str:
        return (
            f"head of {self.prompts:,} prompts, cosine {self.cosine:.4f} from the text of prompts "
            "held out"
        )


def fit_zero_shot_head(
    backbone: str,
    prompts: list[str] | Path,
    head: HeadConfig | None = None,
    noise: float = 0.0,
    epochs: int = 20,
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2",
    device: str | None = None,
    seed: int = 0,
) -> ZeroShotHead:
    """Fit a head that maps a text tower's features of prompts to their prompt embeddings.

    Text features and prompt embeddings are kept on disk, so that a second call is quick.

    Args:
        backbone: image and text tower: ``hf_clip/…``, ``open_clip/…`` or ``hf/…`` (SigLIP).
        prompts: a prompt that comes more than once counts once; or the path of a file of prompts,
            see `prompts_of`.
        head: linear by default, which is fitted in closed form with the ridge penalty that scores
            best on held-out prompts; an ``mlp`` is trained by gradient. Features are brought to
            unit norm.
        noise: standard deviation, in each dimension, of Gaussian noise on the text features. Texts
            and images lie in two separate cones of the shared space; noise makes the head depend
            less on the cone (CapDec; Nukrai et al. 2022, arXiv 2211.00575).
        epochs: passes over the prompts, for an ``mlp``.
        encoder: the target encoder.
        device: by default ``cuda`` where there is one, else ``cpu``.
        seed: of the choice of held-out prompts, of order and of noise.

    Raises:
        ModelNotFoundError: the model is not here and cannot be downloaded.
        UnpromptError: the model has no text tower, its text features are not as wide as its image
            features, or there are fewer than 40 distinct prompts.
    """
    device = choose_device(device)
    prompts = list(dict.fromkeys(prompts_of(prompts) if isinstance(prompts, Path) else prompts))
    if len(prompts) < 2 / HELD_OUT:
        raise UnpromptError(f"{len(prompts)} distinct prompts are too few to fit a head to")
    with advice(backbone):
        tower = create_text_tower(backbone, device)
    features = encode(prompts, tower)
    embeddings = encode(prompts, encoder, precision="fp32")
    settings = replace(head or HeadConfig(), normalise=True)
    images = create_backbone(BackboneConfig(backbone))
    if images.dim != features.shape[1]:
        raise UnpromptError(
            f"'{backbone}': its image features are {images.dim} wide and its text features "
            f"{features.shape[1]}, so they share no space; name a CLIP as hf_clip/…"
        )
    order = np.random.default_rng(seed).permutation(len(prompts))
    held_out, known = np.split(order, [round(HELD_OUT * len(order))])
    module = create_head(settings, images.dim, embeddings.shape[1]).to(device)
    if settings.type == "linear":
        weights, _, _ = best_ridge(
            features[known], embeddings[known], features[held_out], embeddings[held_out], noise
        )
        weights.copy_to(last_layer(module))
    else:
        pairs = features[known], embeddings[known]
        train_head(module, *pairs, epochs, noise=noise, seed=seed)
    with torch.inference_mode():
        module.eval()
        values = torch.from_numpy(features[held_out]).to(device)
        cosine = cosines(module(values).cpu().numpy(), embeddings[held_out]).mean()
    config = EmbedderConfig(images.config, settings, embeddings.shape[1], encoder)
    embedder = Embedder(config, images)
    embedder.head.load_state_dict(module.state_dict())
    return ZeroShotHead(embedder.eval(), float(cosine), len(known))
