"""CoCa of open_clip's by name, without a file of unprompt's: as the hub has it."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.coca.conftest import OPEN_CLIP, open_clip_model
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.predicting.coca_captioner import MSCOCO_TAG, CoCaCaptioner
from unprompt.predicting.loading import load_model
from unprompt.predicting.predictor import Predictor

from .conftest import picture

IMAGES = [picture(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``hf download`` leaves it: open_clip's files."""
    place = tmp_path_factory.mktemp("hub") / "coca"
    place.mkdir()
    # Widths of 64 a head, as all of open_clip's have, and CLIP's whole vocabulary.
    texts = {"width": 64, "heads": 1, "vocab_size": 49408}
    vision = {"width": 64, "head_width": 64, "attn_pooler_heads": 8}
    changes = {"embed_dim": 64, "text_cfg": texts, "multimodal_cfg": texts, "vision_cfg": vision}
    stated = copy.deepcopy(OPEN_CLIP)
    for section, values in changes.items():
        stated[section] = stated[section] | values if isinstance(values, dict) else values
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": stated}))
    weights = open_clip_model(0, **changes).state_dict()
    torch.save(weights, place / "open_clip_pytorch_model.bin")
    return place


def test_a_folder_of_open_clips_and_its_name_give_the_same_captions(folder: Path) -> None:
    by_folder = list(Predictor(folder, top_k=2).stream(IMAGES))
    by_name = list(
        Predictor(f"open_clip/local-dir:{folder}", route="caption", top_k=2).stream(IMAGES)
    )
    assert [answer.prompt for answer in by_folder] == [answer.prompt for answer in by_name]
    assert {answer.route for answer in by_folder} == {"caption"}
    assert {answer.error for answer in by_folder} == {None}
    alone = [Predictor(folder, top_k=2).predict(image).prompt for image in IMAGES]
    assert alone == [answer.prompt for answer in by_folder]


def test_weights_are_enough(folder: Path, tmp_path: Path) -> None:
    """LAION's repositories hold no configuration: it is read off the shapes."""
    shutil.copy(folder / "open_clip_pytorch_model.bin", tmp_path)
    expected = Predictor(folder).predict(IMAGES[0]).prompt
    assert Predictor(tmp_path).predict(IMAGES[0]).prompt == expected


def test_captions_are_those_of_the_weights(folder: Path, tmp_path: Path) -> None:
    """Saved in the Hugging Face form, the same model says the same."""
    model = load_model(folder, device="cpu")
    assert isinstance(model, CoCaCaptioner)
    from unprompt.models.coca import CoCa

    CoCa.from_open_clip(folder).save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    pixels = np.stack([model.preprocessing(image) for image in IMAGES])
    assert load_model(tmp_path, device="cpu").run(pixels)[2] == model.run(pixels)[2]
    with pytest.raises(UnpromptError, match="device 'toaster' cannot be used"):
        load_model(folder, device="toaster")


@pytest.mark.parametrize(
    ("name", "architecture", "tag", "size"),
    [
        ("coca_ViT-B-32", "coca_ViT-B-32", MSCOCO_TAG, "1.01 GB (MIT)"),
        ("open_clip/coca_ViT-L-14", "coca_ViT-L-14", MSCOCO_TAG, "2.55 GB (MIT)"),
        ("open_clip/coca_ViT-L-14:laion2b_s13b_b90k", "coca_ViT-L-14", "laion2b_s13b_b90k", ""),
    ],
)
def test_names_stand_for_weights_on_the_hub(
    name: str, architecture: str, tag: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip.pretrained import get_pretrained_cfg

    assert get_pretrained_cfg(architecture, tag), "open_clip knows this tag"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=f"'{architecture} {tag}': no such") as told:
        load_model(name)
    assert size in str(told.value)


def test_what_is_no_captioner_of_open_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnpromptError, match="no such model; near: coca_ViT-B-32"):
        load_model("coca_ViT-B-33")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k"
    with pytest.raises(ModelNotFoundError, match=r"cannot be downloaded from the hub.*2\.55 GB"):
        load_model(f"open_clip/hf-hub:{repository}")
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises((ModelNotFoundError, UnpromptError)):
        load_model(tmp_path)
