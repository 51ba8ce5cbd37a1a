"""Small models of the real classes, with random weights, as folders that stand for the hub's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel

from tests.models.conftest import tiny_hf_clip
from unprompt.models.image_towers import create_image_tower, normalised
from unprompt.models.text_towers import create_text_tower


def aligned_clip(folder: Path, prompts: Sequence[str], images: Sequence[Image.Image]) -> str:
    """A CLIP whose image tower puts each image exactly where its text tower puts its prompt.

    The projection of the image tower is solved for, so both towers are otherwise random.
    """
    from transformers import CLIPModel

    name = tiny_hf_clip(folder)
    texts = torch.from_numpy(create_text_tower(name).features(list(prompts)))
    tower = create_image_tower(name)
    pixels = torch.stack([torch.from_numpy(tower.preprocessing(image)) for image in images])
    model = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        inputs = normalised(pixels.numpy(), tower.preprocessing, "cpu")
        pooled = model.vision_model(inputs).pooler_output.double()
        solved = torch.linalg.lstsq(pooled, texts.double(), driver="gelsd").solution
        model.visual_projection.weight.copy_(solved.T)
    model.save_pretrained(folder)
    return name


CAPTIONERS = ("blip", "git", "vit-gpt2", "blip-2")
"""Kinds that `taught_captioner` makes."""

END, IMAGE = 256, 257
"""Ids of the byte tokenizer's special tokens."""

_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
_TOWER |= {"num_attention_heads": 2}
_IMAGES = {**_TOWER, "image_size": 32, "patch_size": 8}


def taught_captioner(
    kind: str, folder: Path, images: Sequence[Image.Image], prompts: Sequence[str], steps: int = 120
) -> str:
    """A small captioner that has learned one prompt for each image by heart; its folder."""
    processor, tokenizer, model = _MAKERS[kind](prompts)
    model.eval()  # nothing is dropped out of what is to be learned by heart
    tokens = tokenizer(list(prompts), padding=True, return_tensors="pt")
    labels = tokens.input_ids
    inputs: dict[str, Any] = {
        "pixel_values": processor(list(images), return_tensors="pt").pixel_values
    }
    if kind in ("vit-gpt2", "blip-2"):
        labels = torch.nn.functional.pad(labels, (0, 1), value=END)
    if kind == "blip-2":
        begin = torch.tensor([*[IMAGE] * model.config.num_query_tokens, END])
        inputs["input_ids"] = torch.cat([begin.expand(len(labels), -1), labels], dim=1)
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    elif kind in ("blip", "git"):
        if kind == "blip":
            labels[:, 0] = model.config.text_config.bos_token_id
        inputs |= {"input_ids": labels, "attention_mask": tokens.attention_mask}
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(steps):
        loss = model(**inputs, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for part in (model, processor, tokenizer):
        part.save_pretrained(folder)
    return str(folder)


def _bert_tokenizer(prompts: Sequence[str]) -> Any:
    """BERT's tokenizer, which BLIP and GIT have too, of few words."""
    from transformers import BertTokenizer

    words = sorted({word for prompt in prompts for word in prompt.replace(",", " , ").split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizer(vocab={token: number for number, token in enumerate(special + words)})


def _blip(prompts: Sequence[str]) -> tuple[Any, Any, Any]:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    tokenizer = _bert_tokenizer(prompts)
    # As Salesforce's file has it: [DEC], behind BERT's own words, begins a caption.
    texts = {**_TOWER, "encoder_hidden_size": 32, "vocab_size": len(tokenizer) + 1}
    texts |= {"bos_token_id": len(tokenizer), "sep_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text_config=texts, vision_config=_IMAGES))
    return BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer, model


def _git(prompts: Sequence[str]) -> tuple[Any, Any, Any]:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM

    tokenizer = _bert_tokenizer(prompts)
    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    model = GitForCausalLM(
        GitConfig(vision_config=_IMAGES, **_TOWER, **ends, vocab_size=len(tokenizer))
    )
    square = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=square)
    return processor, tokenizer, model


def _byte_tokenizer() -> Any:
    """GPT-2's tokenizer with no merges: a token a byte."""
    from transformers import GPT2Tokenizer

    vocabulary = [*ByteLevel.alphabet(), "<|endoftext|>", "<image>"]
    numbered = {token: number for number, token in enumerate(vocabulary)}
    return GPT2Tokenizer(vocab=numbered, merges=[], pad_token="<|endoftext|>")


def _vit_gpt2(prompts: Sequence[str]) -> tuple[Any, Any, Any]:
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    texts = GPT2Config(
        vocab_size=IMAGE, n_embd=32, n_layer=1, n_head=2, n_positions=96,
        bos_token_id=END, eos_token_id=END,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**_IMAGES), texts)
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = END
    torch.manual_seed(0)
    model = VisionEncoderDecoderModel(config)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = END
    model.generation_config.decoder_start_token_id = END
    return ViTImageProcessor(size={"height": 32, "width": 32}), _byte_tokenizer(), model


def _blip_2(prompts: Sequence[str]) -> tuple[Any, Any, Any]:
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        OPTConfig,
    )

    texts = OPTConfig(
        vocab_size=IMAGE + 1, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=96,
        bos_token_id=END, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**_IMAGES),
        qformer_config=Blip2QFormerConfig(**_TOWER, cross_attention_frequency=1),
        text_config=texts,
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(config)
    # They are born as zeros, through which nothing of an image would pass for many steps.
    torch.nn.init.normal_(model.query_tokens)
    return BlipImageProcessor(size={"height": 32, "width": 32}), _byte_tokenizer(), model


_MAKERS = {"blip": _blip, "git": _git, "vit-gpt2": _vit_gpt2, "blip-2": _blip_2}
