"""CoCa learns, and only what it should."""

import copy
import json

import pytest
import torch
from PIL import Image

from tests.models.coca.conftest import CONFIG, texts
from unprompt.models.coca import CoCaConfig, CoCaForConditionalGeneration, CoCaProcessor
from unprompt.models.coca.freezing import freeze

SMALL = CoCaConfig(
    image_size=64,
    patch_size=16,
    vision_hidden_size=64,
    vision_layers=2,
    vision_heads=4,
    pooler_queries=17,
    pooler_heads=4,
    hidden_size=64,
    text_layers=2,
    text_heads=4,
    decoder_layers=2,
    decoder_heads=4,
    vocab_size=1200,
    bos_token_id=1198,
    eos_token_id=1199,
    pad_token_id=1199,
)


def pairs_of(shared, count: int) -> tuple[list[Image.Image], list[str]]:
    """Real pairs, each with a prompt of its own, not too long for a small vocabulary."""
    folder = shared / "pairs"
    images, prompts = [], []
    for line in (folder / "pairs.jsonl").open(encoding="utf-8"):
        pair = json.loads(line)
        if pair["source"] and 20 < len(pair["prompt"]) < 70 and pair["prompt"] not in prompts:
            prompts.append(pair["prompt"])
            images.append(Image.open(folder / pair["file"]).convert("RGB"))
            if len(prompts) == count:
                return images, prompts
    raise AssertionError("too few pairs")


def test_real_prompts_come_back_word_for_word(shared):
    """Open_clip's fine-tuned models gave one caption to all images (its issues 751 and 797)."""
    torch.manual_seed(0)
    images, prompts = pairs_of(shared, 32)
    shallow = {"vision_layers": 1, "text_layers": 1, "decoder_layers": 1}
    config = CoCaConfig(**SMALL.to_diff_dict() | shallow)
    processor = CoCaProcessor.from_config(config)
    batch = processor(images=images, text=prompts, padding=True, return_tensors="pt")
    model = CoCaForConditionalGeneration(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=140, pct_start=0.1)
    for _ in range(140):
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    model.eval()
    expected = processor.batch_decode(batch["input_ids"], skip_special_tokens=True)
    for search in ({}, {"num_beams": 3}):
        ids = model.generate(batch["pixel_values"], **search)
        captions = processor.batch_decode(ids, skip_special_tokens=True)
        assert captions == expected
    assert len(set(captions)) == 32
    one_by_one = [model.generate(pixels[None])[0] for pixels in batch["pixel_values"][:4]]
    assert processor.batch_decode(one_by_one, skip_special_tokens=True) == expected[:4]


@pytest.mark.parametrize("contrastive", [0.0, 1.0])
def test_gradient_checkpointing_changes_no_gradient(model, pixels, contrastive):
    model.config.contrastive_weight = contrastive
    ids = texts([9, 5, 7])
    checkpointed = copy.deepcopy(model).train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    for one in (model, checkpointed):
        one(ids, pixels, labels=ids).loss.backward()
    for ours, theirs in zip(model.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    recomputed = []
    checkpointed.model.text.blocks[0].norm_1.register_forward_hook(lambda *_: recomputed.append(1))
    checkpointed(ids, pixels, labels=ids).loss.backward()
    assert len(recomputed) == 2


def moved(model: CoCaForConditionalGeneration, pixels: torch.Tensor) -> set[str]:
    """Names of the weights that a training step of both losses changes."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.config.contrastive_weight = 1.0
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=0.1, weight_decay=0.1)
    ids = texts([9, 5, 7])
    model(ids, pixels, labels=ids).loss.backward()
    optimiser.step()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("tower", ["image", "text", "decoder"])
def test_a_frozen_tower_stays(model, pixels, tower):
    everything = moved(copy.deepcopy(model), pixels)
    freeze(model, tower)
    names = {name for name in everything if name.startswith(f"model.{tower}.")}
    assert names
    assert moved(model, pixels) == everything - names


@pytest.mark.parametrize(
    ("tower", "frozen"),
    [
        ("image", ("blocks.0.", "patches", "class_embedding", "position_embedding", "norm_pre")),
        ("text", ("blocks.0.", "token_embedding", "class_embedding", "position_embedding")),
        ("decoder", ("self_blocks.0.", "cross_blocks.0.")),
    ],
)
def test_the_first_blocks_stay(model, pixels, tower, frozen):
    everything = moved(copy.deepcopy(model), pixels)
    freeze(model.model, tower, blocks=1)
    prefixes = tuple(f"model.{tower}.{part}" for part in frozen)
    names = {name for name in everything if name.startswith(prefixes)}
    assert moved(model, pixels) == everything - names


def test_no_blocks_and_too_many(model):
    freeze(model, "image", blocks=0)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="must be one of image, text, decoder"):
        freeze(model, "head")
    with pytest.raises(ValueError, match="has 2 blocks, not 3"):
        freeze(model, "image", blocks=3)


def test_lora(model, pixels, tmp_path):
    import peft

    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["qkv", "query", "key_value"])
    lora = peft.get_peft_model(copy.deepcopy(model), config)
    learning = [name for name, p in lora.named_parameters() if p.requires_grad]
    assert learning
    assert all("lora" in name for name in learning)
    ids = texts([9, 5, 7])
    optimiser = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(50):
        loss = lora(input_ids=ids, pixel_values=pixels, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]  # the random vocabulary head stays as it is
    lora.eval()
    captions = lora.generate(pixel_values=pixels, max_length=8)
    merged = copy.deepcopy(lora).merge_and_unload()
    assert torch.equal(merged.generate(pixels, max_length=8), captions)
    lora.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    assert torch.equal(loaded.generate(pixel_values=pixels, max_length=8), captions)


def test_texts_longer_than_the_context_are_refused(model, pixels):
    ids = texts([20, 20, 20])
    with pytest.raises(ValueError, match="20 tokens exceed the context of 16"):
        model(ids, pixels, labels=ids)
    with pytest.raises(ValueError, match="20 tokens exceed the context of 16"):
        model(ids, pixels)


@pytest.mark.parametrize(
    ("field", "value"), [("text_heads", 5), ("vision_heads", 7), ("patch_size", 5)]
)
def test_configurations_that_cannot_be(field, value):
    with pytest.raises(ValueError, match=field):
        CoCaConfig(**CONFIG.to_diff_dict() | {field: value})
