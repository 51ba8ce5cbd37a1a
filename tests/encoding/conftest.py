"""The real encoder, its folder, and prompts that are hard to encode."""

import shutil
from pathlib import Path

import pytest

from unprompt.encoding import DEFAULT_ENCODER, PromptEncoder, load_encoder
from unprompt.encoding.sources import find_source

HARD = [
    "",
    "   ",
    "a cat",
    "A CAT",
    "a cat ",
    "cyberpunk city, neon, rain, " * 200,
    "a portrait of Björk, 4k — ‘trending’ on artstation",
    "美しい風景、水彩画",
    "🐉🔥 dragon 👩‍🚀",
    "line one\nline two\ttab",
    "(masterpiece:1.2), [[blurry]] <lora:x:0.8>",
    "e\u0301 é",
]


@pytest.fixture(scope="session")
def model_folder() -> Path:
    return find_source(DEFAULT_ENCODER)


@pytest.fixture
def own_folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage; the weights are links."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "model.safetensors").symlink_to(model_folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def onnx_encoder() -> PromptEncoder:
    return load_encoder(backend="onnx", precision="fp32")


@pytest.fixture(scope="session")
def prompts(shared: Path) -> list[str]:
    """Real prompts of every length."""
    lines = (shared / "prompts" / "imagereward_refl_diffusiondb.txt").read_text().split("\n")
    return sorted(filter(str.strip, lines), key=len)[:: len(lines) // 40]
