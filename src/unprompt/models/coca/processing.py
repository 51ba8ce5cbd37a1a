"""CoCa's processor: images and prompts to model input, and token ids to prompts."""

from __future__ import annotations

import gzip
import html
from pathlib import Path
from typing import Any

import ftfy
from transformers import BatchFeature, CLIPImageProcessorPil, CLIPTokenizer, ProcessorMixin
from transformers.convert_slow_tokenizer import bytes_to_unicode

from unprompt.models.coca.configuration import CoCaConfig
from unprompt.models.coca.written_text import as_written
from unprompt.models.preprocessing import Preprocessing

# Tokens that are not merged byte pairs: 256 bytes inside words, 256 at the end of words, and two
# special tokens.
_UNMERGED = 512 + 2


class CoCaProcessor(ProcessorMixin):
    """CLIP's image processing and tokenizer, as CoCa was trained with.

    ``processor(images=…, text=…, return_tensors="pt", padding=True)`` gives ``pixel_values``,
    ``input_ids`` and ``attention_mask``. Texts are truncated to the model's context and keep their
    end token. ``batch_decode(ids, skip_special_tokens=True)`` gives prompts.
    """

    def __init__(
        self,
        image_processor: CLIPImageProcessorPil | None = None,
        tokenizer: CLIPTokenizer | None = None,
    ):
        super().__init__(image_processor, tokenizer)

    @property
    def preprocessing(self) -> Preprocessing:
        """The same resizing to uint8 pixels, for pipelines that normalise on the device."""
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
        """Turn images, texts or both into model input; ``arguments`` are those of any processor.

        With ``padding=True`` texts are padded to the longest. They are always truncated to the
        context.
        """
        if text is not None:
            arguments.setdefault("truncation", True)
            text = clean_text(text) if isinstance(text, str) else [clean_text(one) for one in text]
        return super().__call__(images=images, text=text, **arguments)

    def batch_decode(self, *arguments: Any, **options: Any) -> list[str]:
        """Prompts of token ids as people write them (see `as_written`), in lower case.

        With ``skip_special_tokens=False`` the tokens stand as the tokenizer splits them.
        """
        texts: list[str] = super().batch_decode(*arguments, **options)
        return list(map(as_written, texts)) if options.get("skip_special_tokens") else texts

    def decode(self, *arguments: Any, **options: Any) -> str:
        """The prompt of one row of token ids, as `batch_decode` writes it."""
        text: str = super().decode(*arguments, **options)
        return as_written(text) if options.get("skip_special_tokens") else text

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **arguments: Any) -> CoCaProcessor:  # type: ignore[override]
        """Load. Unless ``backend`` is given, Pillow resizes images, bit for bit as in open_clip."""
        arguments.setdefault("backend", "pil")
        loaded: CoCaProcessor = super().from_pretrained(name_or_folder, **arguments)
        return loaded

    @classmethod
    def from_config(cls, config: CoCaConfig) -> CoCaProcessor:
        """Make the processor of open_clip's CoCa for a model's image and vocabulary size."""
        size = config.image_size
        images = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        return cls(images, clip_tokenizer(config.context_length, config.vocab_size))


def clean_text(text: str) -> str:
    """Repair text as CLIP's own tokenizer does: wrong encodings, curly quotes, HTML entities."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def clip_tokenizer(context_length: int, vocab_size: int = 49408) -> CLIPTokenizer:
    """Make CLIP's tokenizer from the byte pairs in the open_clip package, without a download.

    Args:
        context_length: truncation keeps this many tokens.
        vocab_size: CLIP's own size, or a smaller one for small models, with only the most
            frequent byte pairs.
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
        split_special_tokens=True,  # a special token that is spelled in a prompt is text
    )
