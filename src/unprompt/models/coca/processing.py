"""From images and prompts to CoCa's input, and from token ids back to prompts."""

from __future__ import annotations

import gzip
import html
from pathlib import Path
from typing import Any

import ftfy
from transformers import BatchFeature, CLIPImageProcessorPil, CLIPTokenizer, ProcessorMixin
from transformers.convert_slow_tokenizer import bytes_to_unicode

from unprompt.models.coca.configuration import CoCaConfig
from unprompt.models.preprocessing import Preprocessing

# Tokens beside the merged byte pairs: single bytes, within and at the end of words, and two
# special ones.
_UNMERGED = 512 + 2


class CoCaProcessor(ProcessorMixin):
    """CLIP's image processing and tokenizer, as CoCa was trained with.

    ``processor(images=…, text=…, return_tensors="pt", padding=True)`` gives ``pixel_values``,
    ``input_ids`` and ``attention_mask``; texts are cut to the model's context, their end token
    kept. ``batch_decode(ids, skip_special_tokens=True)`` gives prompts.
    """

    def __init__(
        self,
        image_processor: CLIPImageProcessorPil | None = None,
        tokenizer: CLIPTokenizer | None = None,
    ):
        super().__init__(image_processor, tokenizer)

    @property
    def preprocessing(self) -> Preprocessing:
        """The same images as uint8 pixels, for pipelines that normalise on the device."""
        images = self.image_processor
        return Preprocessing(
            size=images.crop_size["height"],
            mean=tuple(images.image_mean),
            std=tuple(images.image_std),
            resize="crop",
        )

    def __call__(
        self, images: Any = None, text: str | list[str] | None = None, **arguments: Any
    ) -> BatchFeature:
        """Images, texts or both to model input; ``arguments`` as for any processor.

        With ``padding=True`` texts are padded to the longest, and always cut to the context.
        """
        if text is not None:
            arguments.setdefault("truncation", True)
            text = clean_text(text) if isinstance(text, str) else [clean_text(one) for one in text]
        return super().__call__(images=images, text=text, **arguments)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **arguments: Any) -> CoCaProcessor:  # type: ignore[override]
        """Load; images are resized by Pillow, to the bit as in open_clip, unless told otherwise."""
        arguments.setdefault("backend", "pil")
        loaded: CoCaProcessor = super().from_pretrained(name_or_folder, **arguments)
        return loaded

    @classmethod
    def from_config(cls, config: CoCaConfig) -> CoCaProcessor:
        """The processor of open_clip's CoCa models, for the model's image and vocabulary size."""
        size = config.image_size
        images = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        return cls(images, clip_tokenizer(config.context_length, config.vocab_size))


def clean_text(text: str) -> str:
    """Mend text as CLIP's own tokenizer does: broken encodings, curled quotes, HTML entities."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def clip_tokenizer(context_length: int, vocab_size: int = 49408) -> CLIPTokenizer:
    """CLIP's tokenizer from the byte pairs that open_clip brings along, without a download.

    Args:
        context_length: tokens to which texts are cut when truncation is asked for.
        vocab_size: CLIP's own, or a smaller one for small models: then only its most frequent
            byte pairs are merged.
    """
    import open_clip

    file = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        merges = lines.read().split("\n")[1 : vocab_size - _UNMERGED + 1]
    pairs: Any = [tuple(merge.split()) for merge in merges]  # as the tokenizers library has it
    characters = list(bytes_to_unicode().values())
    tokens = characters + [character + "</w>" for character in characters]
    tokens += ["".join(pair) for pair in pairs]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=pairs,
        model_max_length=context_length,
        split_special_tokens=True,  # a prompt that spells a special token is still text
    )
