"""Captioners of transformers: BLIP, BLIP-2, GIT, and an image encoder with a language model.

Their captions describe; they name no style and no artist, so as prompts they score below an
embedder (so the Kaggle competition's accounts), and add to one in an ensemble.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unprompt.encoding import DEFAULT_ENCODER
from unprompt.errors import MissingExtraError, ModelNotFoundError, UnpromptError
from unprompt.models.preprocessing import Preprocessing
from unprompt.predicting.captioner_model import Caption, Captioner, Search, ranked

if TYPE_CHECKING:
    import torch

MAX_TOKENS = 50
"""Of a caption; these models' own bound is often 20, made for captions of one sentence."""


class ImageToText(Captioner):
    """A captioner of transformers, ready to write prompts.

    Args:
        model: ``generate`` makes token ids from ``pixel_values``.
        tokenizer: from these ids to text.
        preprocessing: how images become ``pixel_values``.
        name: what answers call it.
        folder: where a bank or a decoder may stand.
    """

    preprocessing: Preprocessing

    def __init__(
        self, model: Any, tokenizer: Any, preprocessing: Preprocessing, name: str, folder: Path
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.name = name
        self.folder = folder
        self.search = Search()
        self.encoder = DEFAULT_ENCODER

    def caption(self, pixels: np.ndarray, top_k: int = 1) -> list[list[Caption]]:
        """See `Captioner.caption`; the most probable first."""
        import torch

        from unprompt.models.image_towers import normalised

        search = self.search
        if search.top_p is None:
            settings: dict[str, Any] = {"num_beams": max(search.num_beams, top_k)}
        else:
            settings = {"do_sample": True, "top_p": search.top_p, "top_k": 0, "num_beams": 1}
        with torch.inference_mode():
            batch = normalised(pixels, self.preprocessing, self.model.device, self.model.dtype)
            written = self.model.generate(
                pixel_values=batch,
                max_new_tokens=MAX_TOKENS,
                max_length=None,
                num_return_sequences=top_k,
                return_dict_in_generate=True,
                output_logits=True,
                **settings,
            )
            ids, scores = told(written, self._end_tokens)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        lines = [" ".join(text.split()) for text in texts]
        return ranked(lines, scores.tolist(), top_k)

    @property
    def _end_tokens(self) -> list[int]:
        """Ids that end a caption. BLIP ends with BERT's separator, whatever its settings say."""
        if self.model.config.model_type == "blip":
            return [self.model.config.text_config.sep_token_id]
        stated = self.model.generation_config.eos_token_id
        return stated if isinstance(stated, list) else [stated]


def told(written: Any, end_tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that were written, without what they go on from, and how probable they are.

    Args:
        written: what ``generate`` gives with ``return_dict_in_generate`` and ``output_logits``.
        end_tokens: ids that end a text; what follows one is padding.

    Returns:
        Ids, int64 of shape (texts, length), and the geometric mean of the probabilities of each
        text's tokens, the end token included, float32 of shape (texts,).
    """
    import torch

    sequences, steps = written.sequences, len(written.logits)
    beams = getattr(written, "beam_indices", None)
    if beams is None:
        beams = torch.arange(len(sequences), device=sequences.device)[:, None].expand(-1, steps)
    longest = int((beams >= 0).sum(dim=1).max())
    beams, tokens = beams[:, :longest], sequences[:, sequences.shape[1] - longest :]
    logs = torch.stack(
        [
            logits.float().log_softmax(dim=-1)[beams[:, step].clamp(min=0), tokens[:, step]]
            for step, logits in enumerate(written.logits[:longest])
        ],
        dim=1,
    )
    ends = torch.isin(tokens, torch.tensor(end_tokens, device=tokens.device)).long()
    counted = (beams >= 0) & (ends.cumsum(dim=1) - ends == 0)
    means = logs.masked_fill(~counted, 0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return tokens, means.exp()


def load_image_to_text(place: str | Path, name: str, device: str | None = None) -> ImageToText:
    """Load a captioner from a folder or the hub.

    Raises:
        ModelNotFoundError: its files cannot be had.
        MissingExtraError: torch or transformers is not installed.
        UnpromptError: the device cannot be used, or the images' size varies.
    """
    try:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        from unprompt.models.devices import placed
        from unprompt.models.pretrained import load_pretrained
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # What was stored in 16 bits stays so where the device is quick with them.
        dtype = torch.float32 if device == "cpu" else "auto"
        model = load_pretrained(AutoModelForImageTextToText, place, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(place)
        processor = AutoImageProcessor.from_pretrained(place)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelNotFoundError(f"model '{name}' could not be loaded: {reason}") from error
    model = placed(model, device)
    return ImageToText(model, tokenizer, preprocessing_of(processor), name, Path(place))


def preprocessing_of(processor: Any) -> Preprocessing:
    """The same images as transformers' own processor makes, but for its rounding.

    Raises:
        UnpromptError: it does not bring images to one square size.
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
        f"{type(processor).__name__} with size {size}: images of no fixed square size; captioners "
        "here need one"
    )
