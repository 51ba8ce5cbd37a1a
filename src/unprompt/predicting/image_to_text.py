"""Captioners of transformers: BLIP, BLIP-2, GIT, and an image encoder with a language model.

Their captions describe the image but name no style and no artist. Alone they score lower than an
embedder; in an ensemble they improve it (reports from the Kaggle competition).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from unprompt.devices import choose_device, placed
from unprompt.encoding import DEFAULT_ENCODER
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.image_towers import normalised
from unprompt.models.preprocessing import Preprocessing
from unprompt.models.pretrained import load_pretrained
from unprompt.predicting.captioner import Caption, Captioner, generate_arguments, ranked_by_image
from unprompt.predicting.options import PredictOptions

MAX_TOKENS = 50
"""Most tokens in a caption. The models' own limit is often 20, enough for one sentence."""


class ImageToText(Captioner):
    """A captioner of transformers.

    Args:
        model: the network; its ``generate`` makes token ids from ``pixel_values``.
        tokenizer: turns token ids into text.
        preprocessing: turns images into ``pixel_values``.
        name: the model's name in its answers.
        folder: its folder.
        options: how it searches for captions.
    """

    preprocessing: Preprocessing

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        name: str,
        folder: Path,
        options: PredictOptions,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.name = name
        self.folder = folder
        self.options = options
        self.encoder = DEFAULT_ENCODER

    @classmethod
    def load(cls, place: str | Path, name: str, options: PredictOptions) -> ImageToText:
        """Load a captioner from a folder or the hub.

        Raises:
            ModelNotFoundError: its files cannot be found or downloaded.
            UnpromptError: the device cannot be used, or the model's images have no fixed size.
        """
        device = choose_device(options.device)
        try:
            # Some weights are stored in 16 bits, in which a CPU is slow.
            dtype = torch.float32 if device == "cpu" else "auto"
            model = load_pretrained(AutoModelForImageTextToText, place, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(place)
            processor = AutoImageProcessor.from_pretrained(place)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelNotFoundError(f"model '{name}' could not be loaded: {reason}") from error
        preprocessing = preprocessing_of(processor)
        return cls(placed(model, device), tokenizer, preprocessing, name, Path(place), options)

    @torch.inference_mode()
    def describe(self, pixels: np.ndarray, top_k: int = 1) -> tuple[list[list[Caption]], None]:
        """See `Captioner.describe`; the most probable caption comes first."""
        batch = normalised(pixels, self.preprocessing, self.model.device, self.model.dtype)
        written = self.model.generate(
            pixel_values=batch,
            max_new_tokens=MAX_TOKENS,
            max_length=None,
            return_dict_in_generate=True,
            output_logits=True,
            **generate_arguments(self.options, top_k),
        )
        ids, probabilities = generated(written, self._end_tokens)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        lines = [" ".join(text.split()) for text in texts]
        return ranked_by_image(lines, probabilities.tolist(), top_k), None

    @property
    def _end_tokens(self) -> list[int]:
        """Ids that end a caption. BLIP ends with BERT's separator, although its settings differ."""
        if self.model.config.model_type == "blip":
            return [self.model.config.text_config.sep_token_id]
        stated = self.model.generation_config.eos_token_id
        return stated if isinstance(stated, list) else [stated]


def generated(output: Any, end_tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The generated tokens, without the context, and the probability of each text.

    Args:
        output: the output of ``generate`` with ``return_dict_in_generate`` and ``output_logits``.
        end_tokens: ids that end a text; padding follows them.

    Returns:
        Ids, int64 of shape (texts, length), and the geometric mean of the probabilities of each
        text's tokens, the end token included, float32 of shape (texts,).
    """
    sequences, steps = output.sequences, len(output.logits)
    beams = getattr(output, "beam_indices", None)
    if beams is None:
        beams = torch.arange(len(sequences), device=sequences.device)[:, None].expand(-1, steps)
    longest = int((beams >= 0).sum(dim=1).max())
    beams, tokens = beams[:, :longest], sequences[:, sequences.shape[1] - longest :]
    logs = torch.stack(
        [
            logits.float().log_softmax(dim=-1)[beams[:, step].clamp(min=0), tokens[:, step]]
            for step, logits in enumerate(output.logits[:longest])
        ],
        dim=1,
    )
    ends = torch.isin(tokens, torch.tensor(end_tokens, device=tokens.device)).long()
    counted = (beams >= 0) & (ends.cumsum(dim=1) - ends == 0)
    means = logs.masked_fill(~counted, 0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return tokens, means.exp()


def preprocessing_of(processor: Any) -> Preprocessing:
    """The same preprocessing as a processor of transformers, up to rounding.

    Raises:
        UnpromptError: the processor does not bring images to one square size.
    """
    size, crop = dict(processor.size), getattr(processor, "crop_size", None)
    filters = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
    interpolation = filters.get(int(processor.resample), "bicubic")
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    if size.get("height") and size["height"] == size.get("width"):
        return Preprocessing(size["height"], mean, std, "squash", interpolation=interpolation)
    shorter = size.get("shortest_edge")
    if shorter and crop and dict(crop).get("height") == dict(crop).get("width"):
        side = dict(crop)["height"]
        return Preprocessing(side, mean, std, "crop", side / shorter, interpolation)
    raise UnpromptError(
        f"{type(processor).__name__} with size {size}: a captioner needs images of one fixed "
        "square size"
    )
