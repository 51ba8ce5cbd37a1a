"""CoCa is a Hugging Face model like any other."""

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    pipeline,
)

from tests.models.coca.conftest import texts
from tests.models.coca.test_training import SMALL
from unprompt.models.coca import CoCaConfig, CoCaForConditionalGeneration, CoCaModel, CoCaProcessor


def test_saved_and_loaded(model, pixels, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = CoCaForConditionalGeneration.from_pretrained(tmp_path)
    stated = {name: value for name, value in loaded.config.to_diff_dict().items() if name[0] != "_"}
    assert stated == model.config.to_diff_dict()
    assert not loaded.training
    for (name, ours), theirs in zip(
        model.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert torch.equal(loaded.generate(pixels), model.generate(pixels))
    half = CoCaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_auto_classes(model, pixels, tmp_path):
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), CoCaConfig)
    captioner = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(captioner, CoCaForConditionalGeneration)
    towers = AutoModel.from_pretrained(tmp_path)
    assert isinstance(towers, CoCaModel)
    ids = texts([4, 6, 5])
    with torch.no_grad():
        torch.testing.assert_close(
            towers(ids, pixels).last_hidden_state, model(ids, pixels).last_hidden_state
        )


def test_a_pipeline(tmp_path):
    torch.manual_seed(0)
    CoCaForConditionalGeneration(SMALL).save_pretrained(tmp_path)
    CoCaProcessor.from_config(SMALL).save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), CoCaProcessor)
    captioner = pipeline("image-text-to-text", model=str(tmp_path), device="cpu")
    image = Image.new("RGB", (90, 70), "green")
    [answer] = captioner(
        images=image, text="a photo", generate_kwargs={"max_new_tokens": 5, "min_new_tokens": 5}
    )
    assert answer["generated_text"].startswith("a photo")
    processor = CoCaProcessor.from_pretrained(tmp_path)
    inputs = processor(images=image, text="a photo", return_tensors="pt")
    model = CoCaForConditionalGeneration.from_pretrained(tmp_path)
    ids = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5)
    text = processor.decode(ids[0], skip_special_tokens=True)
    assert text.split() == answer["generated_text"].split()


def test_embeddings_of_the_shared_space(model, pixels):
    ids = texts([4, 6, 5])
    with torch.no_grad():
        output = model.model(ids, pixels, contrastive=True)
        torch.testing.assert_close(output.image_embeds, model.model.get_image_features(pixels))
        torch.testing.assert_close(output.text_embeds, model.model.get_text_features(ids))
    torch.testing.assert_close(output.text_embeds.norm(dim=1), torch.ones(3))


def test_input_and_output_embeddings(model):
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert embedding.weight.shape == head.weight.shape
    model.set_input_embeddings(torch.nn.Embedding(7, 32))
    model.set_output_embeddings(torch.nn.Linear(32, 7, bias=False))
    assert len(model.model.text.token_embedding.weight) == len(model.head.weight) == 7


def test_fresh_weights_are_sound():
    """Every weight is set, none to nonsense, and the first loss is near that of a guess."""
    torch.manual_seed(0)
    model = CoCaForConditionalGeneration(SMALL)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.abs().max() < 10, name
    ids = torch.randint(1, 1100, (8, 20))
    loss = model(ids, torch.randn(8, 3, 64, 64), labels=ids).loss.item()
    assert loss == pytest.approx(torch.tensor(1200.0).log().item(), rel=0.15)
