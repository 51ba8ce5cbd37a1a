from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

SIZE = 32
SHARED_DIM = 16
"""Width of the space that the towers of the tiny contrastive models share."""


def tiny_open_clip(folder: Path) -> str:
    """A contrastive model of open_clip with random weights, on disk; its name."""
    import open_clip

    config = {
        "embed_dim": SHARED_DIM,
        "vision_cfg": {
            "image_size": SIZE,
            "layers": 1,
            "width": 32,
            "patch_size": 8,
            "head_width": 16,
        },
        "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"open_clip/local-dir:{folder}"


def tiny_hf_clip(folder: Path) -> str:
    """A CLIP of transformers with random weights and CLIP's tokenizer, on disk; its name."""
    import open_clip
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2, "projection_dim": SHARED_DIM}
    config = CLIPConfig(
        text_config={**tower, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407},
        vision_config={**tower, "image_size": SIZE, "patch_size": 8},
        projection_dim=SHARED_DIM,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    named = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {
        named.get(token, token): number
        for token, number in open_clip.tokenizer.SimpleTokenizer().encoder.items()
    }
    source = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(source.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    pairs = [tuple(line.split()) for line in merges]
    CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=77).save_pretrained(folder)
    return f"hf_clip/{folder}"


@pytest.fixture(scope="session")
def open_clip_pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_open_clip(tmp_path_factory.mktemp("models") / "open_clip")


@pytest.fixture(scope="session")
def hf_clip_pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_hf_clip(tmp_path_factory.mktemp("models") / "hf_clip")


@pytest.fixture
def pixels() -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(0, 256, (3, 3, SIZE, SIZE), dtype=np.uint8)
    return torch.from_numpy(drawn)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached, and says so without retrying for a minute."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
