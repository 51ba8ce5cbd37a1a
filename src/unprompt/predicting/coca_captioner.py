"""CoCa as a captioner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from unprompt.devices import choose_device, placed
from unprompt.encoding import DEFAULT_ENCODER
from unprompt.models.coca import CoCaForConditionalGeneration, CoCaProcessor
from unprompt.models.coca.packing import pack
from unprompt.models.image_towers import normalised
from unprompt.models.model_names import OpenClipName
from unprompt.models.preprocessing import Preprocessing
from unprompt.predicting.captioner import Caption, Captioner, generate_arguments, ranked_by_image
from unprompt.predicting.options import PredictOptions

MSCOCO_TAG = "mscoco_finetuned_laion2b_s13b_b90k"
"""Default tag of open_clip's CoCa: weights that were fine-tuned to write captions."""

_SCORED = 4096
"""Most tokens that are scored at a time, to bound memory."""


class CoCaCaptioner(Captioner):
    """A CoCa that writes prompts. Its features are those of its contrastive branch.

    Args:
        model: the network.
        processor: its tokenizer and the preprocessing of its images.
        name: the model's name in its answers.
        folder: its folder.
        options: how it searches for captions.
    """

    preprocessing: Preprocessing

    def __init__(
        self,
        model: CoCaForConditionalGeneration,
        processor: CoCaProcessor,
        name: str,
        folder: Path,
        options: PredictOptions | None = None,
    ):
        self.model = model
        self.processor = processor
        self.name = name
        self.folder = folder
        self.options = options or PredictOptions()
        self.encoder = DEFAULT_ENCODER
        self.preprocessing = processor.preprocessing

    @classmethod
    def load(
        cls, place: str | Path | OpenClipName, name: str, options: PredictOptions
    ) -> CoCaCaptioner:
        """Load a model; on a CPU its weights are packed for speed.

        Args:
            place: a folder or hub repository in the Hugging Face form, or a model of open_clip.
            name: the model's name in its answers.
            options: how it searches for captions, and on which device it runs.

        Raises:
            ModelNotFoundError: there is no such model.
            UnpromptError: the device cannot be used.
        """
        model: Any
        if isinstance(place, OpenClipName):
            tag = place.weights or (MSCOCO_TAG if place.source == "architecture" else None)
            on_disk = place.source in ("local-dir", "file")
            path = Path(place.place) if on_disk else place.model
            model = CoCaForConditionalGeneration.from_open_clip(path, tag)
            processor = CoCaProcessor.from_config(model.config)
        else:
            model = CoCaForConditionalGeneration.from_pretrained(place)
            processor = CoCaProcessor.from_pretrained(place)
        device = choose_device(options.device)
        model = placed(model, device)
        if device == "cpu":
            model = pack(model)
        return cls(model, processor, name, Path(str(place)), options)

    @torch.inference_mode()
    def describe(
        self, pixels: np.ndarray, top_k: int = 1
    ) -> tuple[list[list[Caption]], np.ndarray]:
        """See `Captioner.describe`; the most probable caption comes first."""
        batch = normalised(pixels, self.preprocessing, self.model.device, self.model.dtype)
        images = self.model.model.encode_images(batch)
        arguments = generate_arguments(self.options, top_k)
        ids = self.model.generate(image_outputs=images, **arguments)
        texts = self.processor.batch_decode(ids, skip_special_tokens=True)
        scores = self._scores(ids, images).tolist()
        features = images.pooled.float().cpu().numpy()
        return ranked_by_image(texts, scores, top_k), features

    def _scores(self, ids: torch.Tensor, images: Any) -> torch.Tensor:
        """Geometric mean of the probabilities of each row's tokens, the end token included."""
        per_image = len(ids) // len(images.states)
        at_a_time = max(1, _SCORED // (ids.shape[1] * per_image))
        scores = []
        for start in range(0, len(images.states), at_a_time):
            rows = ids[start * per_image : (start + at_a_time) * per_image]
            part = type(images)(
                states=images.states[start : start + at_a_time],
                pooled=images.pooled[start : start + at_a_time],
            )
            logits = self.model(rows[:, :-1], image_outputs=part).logits.float()
            targets = rows[:, 1:]
            chosen = logits.gather(2, targets[..., None])[..., 0] - logits.logsumexp(dim=-1)
            ended = (rows[:, :-1] == self.model.config.eos_token_id).cumsum(dim=1) > 0
            counted = (~ended).sum(dim=1).clamp(min=1)
            scores.append((chosen.masked_fill(ended, 0).sum(dim=1) / counted).exp())
        return torch.cat(scores)
