"""What names of models state, in every form of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from unprompt.models.model_names import OpenClipName, split_library


@pytest.mark.parametrize(
    ("name", "source", "place", "weights", "model"),
    [
        ("ViT-B-32", "architecture", "ViT-B-32", None, "ViT-B-32"),
        ("ViT-B-32:openai", "architecture", "ViT-B-32", "openai", "ViT-B-32"),
        ("coca_ViT-L-14:a/file.pt", "architecture", "coca_ViT-L-14", "a/file.pt", "coca_ViT-L-14"),
        ("hf-hub:org/clip", "hf-hub", "org/clip", None, "hf-hub:org/clip"),
        ("local-dir:a/folder", "local-dir", "a/folder", None, "local-dir:a/folder"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "open_clip/"])
def test_a_name_of_open_clip(
    prefix: str, name: str, source: str, place: str, weights: str | None, model: str
) -> None:
    parsed = OpenClipName.parse(prefix + name)
    assert (parsed.source, parsed.place, parsed.weights) == (source, place, weights)
    assert parsed.model == model
    assert str(parsed) == name
    assert OpenClipName.parse(str(parsed)) == parsed


def test_a_file_of_weights_is_one_even_with_a_colon_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "weights:last.pt"
    file.touch()
    parsed = OpenClipName.parse(f"open_clip/{file}")
    assert parsed == OpenClipName("file", str(file))
    assert parsed.model == str(file)


def test_the_library_is_what_stands_before_the_first_slash() -> None:
    assert split_library("hf/openai/clip") == ("hf", "openai/clip")
    assert split_library("timm/resnet18.a1_in1k") == ("timm", "resnet18.a1_in1k")
    assert split_library("resnet18") == ("resnet18", "")
