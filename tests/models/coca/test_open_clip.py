"""Our CoCa is open_clip's, weight by weight and number by number."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import unprompt
from tests.models.coca.conftest import OPEN_CLIP, open_clip_model, our_model, texts
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.coca import CoCaForConditionalGeneration
from unprompt.models.coca.open_clip import (
    config_from_open_clip,
    config_from_weights,
    load_open_clip,
    to_open_clip,
)

# Widths of image tower and texts that differ or agree (PyTorch then fuses the pooler's matrices),
# and depths, heads and sizes that differ.
SHAPES = [
    {},
    {"vision_cfg": {"width": 32, "layers": 1}, "multimodal_cfg": {"layers": 4}},
    {"vision_cfg": {"patch_size": 16, "attn_pooler_queries": 5}, "text_cfg": {"layers": 1}},
    {"quick_gelu": True, "text_cfg": {"heads": 2}},
]


def stated(changes: dict) -> dict:
    merged = dict(OPEN_CLIP)
    for section, values in changes.items():
        merged[section] = merged[section] | values if isinstance(values, dict) else values
    return merged


def ours_of(theirs: torch.nn.Module, changes: dict) -> CoCaForConditionalGeneration:
    config = config_from_open_clip(stated(changes))
    config.update({"bos_token_id": 92, "eos_token_id": 93, "pad_token_id": 93})
    ours = CoCaForConditionalGeneration(config).eval()
    load_open_clip(ours, theirs.state_dict())
    return ours


@pytest.mark.parametrize("changes", SHAPES)
@torch.no_grad()
def test_same_logits_and_embeddings(changes):
    theirs = open_clip_model(0, **changes)
    ours = ours_of(theirs, changes)
    pixels = torch.randn(4, 3, 32, 32)
    lengths = [16, 15, 7, 2]
    ids = texts(lengths, longest=16)
    expected = theirs(pixels, ids, output_labels=False)
    logits = ours(ids, pixels).logits
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            logits[row, :length], expected["logits"][row, :length], atol=1e-4, rtol=1e-4
        )
    torch.testing.assert_close(
        ours.model.get_image_features(pixels), expected["image_features"], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        ours.model.get_text_features(ids), expected["text_features"], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_the_corrected_class_mask_is_open_clips_corrected_one():
    theirs = open_clip_model(0)
    ours = ours_of(theirs, {})
    theirs.text.correct_cls_mask = True
    ours.config.correct_cls_mask = True
    for lengths in ([16, 9, 2], [5, 3, 4]):
        ids = texts(lengths, longest=16)
        torch.testing.assert_close(
            ours.model.get_text_features(ids[:, : max(lengths)]),
            theirs.encode_text(ids),
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize("changes", SHAPES)
def test_weights_there_and_back_are_the_same(changes):
    theirs = open_clip_model(1, **changes)
    back = to_open_clip(ours_of(theirs, changes))
    state = theirs.state_dict()
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    theirs.load_state_dict(back, strict=True)


@pytest.mark.parametrize("name", ["coca_ViT-B-32", "coca_ViT-L-14"])
def test_the_published_architectures(name):
    config = config_from_open_clip(open_clip.get_model_config(name))
    with torch.device("meta"):
        ours = CoCaForConditionalGeneration(config)
        theirs = open_clip.CoCa(
            **{k: v for k, v in open_clip.get_model_config(name).items() if k != "custom_text"}
        ).state_dict()
        back = to_open_clip(ours)
    assert {key: tensor.shape for key, tensor in back.items()} == {
        key: tensor.shape for key, tensor in theirs.items()
    }
    assert config_from_weights(theirs).to_dict() == config.to_dict()


def test_every_problem_is_named():
    theirs = open_clip_model(0)
    ours = our_model()
    state = theirs.state_dict()
    state["text.surprise"] = torch.zeros(1)
    state["visual.proj"] = torch.zeros(3, 3)
    del state["text.cls_emb"]
    with pytest.raises(UnpromptError) as error:
        load_open_clip(ours, state)
    assert "text.surprise is unknown" in str(error.value)
    assert "visual.proj has shape (3, 3) instead of (32, 32)" in str(error.value)
    assert "text.cls_emb is missing" in str(error.value)


def test_old_checkpoints_carry_masks():
    theirs = open_clip_model(0)
    ours = our_model()
    state = theirs.state_dict()
    state["text.attn_mask"] = theirs.text.attn_mask
    load_open_clip(ours, state)
    state["text.attn_mask"] = torch.zeros(17, 17)
    with pytest.raises(UnpromptError, match="not a causal mask"):
        load_open_clip(ours, state)


@pytest.mark.parametrize("kind", ["folder", "folder.bin"])
def test_a_folder(tmp_path, kind):
    theirs = open_clip_model(0)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP}))
    if kind == "folder":
        save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    else:
        torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    ours = unprompt.CoCa.from_open_clip(tmp_path)
    assert torch.equal(ours.head.weight.T, theirs.text_decoder.text_projection)


def test_a_training_checkpoint_by_its_shapes_alone(tmp_path):
    """Widths of 64 a head, and open_clip's nesting of a distributed run's checkpoint."""
    wide = {"embed_dim": 64, "text_cfg": {"width": 64, "heads": 1}}
    wide |= {"multimodal_cfg": {"width": 64, "heads": 1}}
    wide |= {"vision_cfg": {"width": 64, "head_width": 64, "attn_pooler_heads": 8}}
    theirs = open_clip_model(0, **wide)
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    file = tmp_path / "epoch_1.pt"
    torch.save({"epoch": 1, "name": "run", "state_dict": state}, file)
    ours = CoCaForConditionalGeneration.from_open_clip(file)
    pixels, ids = torch.randn(2, 3, 32, 32), texts([9, 9])
    with torch.no_grad():
        expected = theirs(pixels, ids, output_labels=False)["logits"]
        torch.testing.assert_close(ours(ids, pixels).logits, expected, atol=1e-4, rtol=1e-4)


def test_an_architecture_with_a_file_of_weights_must_fit(tmp_path):
    file = tmp_path / "small.safetensors"
    save_file(open_clip_model(0).state_dict(), file)
    with pytest.raises(UnpromptError, match=r"visual\.conv1\.weight has shape"):
        CoCaForConditionalGeneration.from_open_clip("coca_ViT-B-32", pretrained=file)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Attack()}, tmp_path / "evil.pt")
    with pytest.raises(UnpromptError, match="not a file of weights"):
        CoCaForConditionalGeneration.from_open_clip(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("coca_ViT-Z-99",), "open_clip has no such model"),
        (("coca_ViT-B-32",), "give its weights"),
        (("coca_ViT-B-32", "nonsense"), "neither a file nor a tag"),
        (("not/a/repository",), "cannot be downloaded"),
    ],
)
def test_what_is_not_there(arguments, message):
    with pytest.raises(ModelNotFoundError, match=message):
        CoCaForConditionalGeneration.from_open_clip(*arguments)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"open_clip_config\.json is missing"):
        CoCaForConditionalGeneration.from_open_clip(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP}))
    with pytest.raises(ModelNotFoundError, match="contains none of"):
        CoCaForConditionalGeneration.from_open_clip(tmp_path)


def test_damaged_files(tmp_path):
    for name in ("cut.safetensors", "cut.pt"):
        (tmp_path / name).write_bytes(b"\x00" * 20)
        with pytest.raises(UnpromptError, match="not a file of weights"):
            CoCaForConditionalGeneration.from_open_clip(tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(UnpromptError, match="contains no state dict"):
        CoCaForConditionalGeneration.from_open_clip(tmp_path / "empty.pt")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UnpromptError, match=r"conv1\.weight' is missing"):
        CoCaForConditionalGeneration.from_open_clip(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_cfg": {"attentional_pool": False}},
        {"vision_cfg": {"ls_init_value": 0.1}},
        {"text_cfg": {"embed_cls": False}},
        {"text_cfg": {"hf_model_name": "roberta-base"}},
        {"multimodal_cfg": {"width": 48}},
        {"text_cfg": {"mlp_ratio": 3.0}},
    ],
)
def test_variants_that_are_not_there_are_refused(changes):
    with pytest.raises(UnpromptError, match="is not supported"):
        config_from_open_clip(stated(changes))


def test_a_clip_is_no_coca():
    with pytest.raises(UnpromptError, match="no multimodal_cfg"):
        config_from_open_clip(open_clip.get_model_config("ViT-B-32"))
