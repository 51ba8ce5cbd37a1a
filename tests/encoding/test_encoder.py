"""Embeddings against sentence-transformers' own, on both backends and in every precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.encoding.conftest import HARD
from unprompt.encoding import DEFAULT_ENCODER, EncoderError, PromptEncoder, load_encoder
from unprompt.errors import MissingExtraError

CPUINFO = Path("/proc/cpuinfo")
FLAGS = CPUINFO.read_text() if CPUINFO.exists() else ""


@pytest.fixture(scope="module")
def reference(model_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(model_folder), device="cpu")


@pytest.fixture(scope="module")
def torch_encoder() -> PromptEncoder:
    return load_encoder(backend="torch", precision="fp32", device="cpu")


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_fp32_is_what_sentence_transformers_gives(
    backend: str, reference: SentenceTransformer, prompts: list[str]
):
    texts = HARD + prompts
    ours = load_encoder(backend=backend, precision="fp32", device="cpu").encode(texts)
    theirs = reference.encode(texts, normalize_embeddings=True)
    assert ours.dtype == np.float32
    assert ours.shape == (len(texts), 384)
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize(
    ("backend", "precision", "least"),
    [
        ("torch", "bf16", 0.9999),
        ("onnx", "int8", 0.99),
    ],
)
def test_fast_precisions_stay_near_fp32(
    backend: str, precision: str, least: float, onnx_encoder: PromptEncoder, prompts: list[str]
):
    exact = onnx_encoder.encode(prompts)
    fast = load_encoder(backend=backend, precision=precision, device="cpu").encode(prompts)
    assert np.abs(np.linalg.norm(fast, axis=1) - 1).max() < 1e-6
    cosines = (exact * fast).sum(axis=1)
    assert cosines.mean() >= least
    # It is another arithmetic, not fp32 under another name.
    assert np.abs(exact - fast).max() > 1e-5


def test_cls_pooling_on_both_backends(own_folder: Path, reference: SentenceTransformer):
    pooling = own_folder / "1_Pooling" / "config.json"
    text = pooling.read_text()
    text = text.replace('"pooling_mode_mean_tokens": true', '"pooling_mode_mean_tokens": false')
    text = text.replace('"pooling_mode_cls_token": false', '"pooling_mode_cls_token": true')
    pooling.write_text(text)
    theirs = SentenceTransformer(str(own_folder), device="cpu").encode(HARD)
    assert np.abs(theirs - reference.encode(HARD)).max() > 0.01
    for backend in ("torch", "onnx"):
        ours = load_encoder(str(own_folder), backend, "fp32", "cpu").encode(HARD)
        assert np.abs(ours - theirs).max() < 1e-5


def test_order_is_kept_and_batch_size_changes_nothing(onnx_encoder: PromptEncoder):
    texts = HARD * 3
    small = onnx_encoder.encode(texts, batch_size=2)
    assert np.abs(small - onnx_encoder.encode(texts)).max() < 1e-6
    backwards = onnx_encoder.encode(texts[::-1])
    assert np.abs(backwards[::-1] - small).max() < 1e-6


def test_texts_longer_than_a_batch_are_cut_as_the_model_says(onnx_encoder: PromptEncoder):
    words = ["castle"] * 254
    within, beyond = " ".join(words), " ".join([*words, "octopus"])
    first, second = onnx_encoder.encode([within, beyond])
    assert np.array_equal(first, second)


def test_windows_of_tokenising_join_up(
    onnx_encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
):
    whole = onnx_encoder.encode(HARD)
    monkeypatch.setattr("unprompt.encoding.encoder._WINDOW", 5)
    assert np.abs(onnx_encoder.encode(HARD) - whole).max() < 1e-6


def test_lone_surrogates_of_damaged_metadata_do_not_stop_a_batch(onnx_encoder: PromptEncoder):
    damaged, mended = onnx_encoder.encode(["a cat \ud83d here", "a cat \ufffd here"])
    assert np.array_equal(damaged, mended)


def test_no_prompts(onnx_encoder: PromptEncoder):
    assert onnx_encoder.encode([]).shape == (0, 384)


@pytest.mark.parametrize("wrong", [["a", None], [1], [b"a"]])
def test_what_is_not_text_is_refused(wrong: list, onnx_encoder: PromptEncoder):
    with pytest.raises(TypeError, match="item"):
        onnx_encoder.encode(wrong)


def test_one_string_is_not_taken_for_a_list_of_letters(onnx_encoder: PromptEncoder):
    with pytest.raises(TypeError, match="one string"):
        onnx_encoder.encode("a cat")


def test_auto_is_bf16_only_where_the_processor_multiplies_in_it():
    has_bf16 = "avx512_bf16" in FLAGS or "amx_bf16" in FLAGS
    encoder = load_encoder(device="cpu")
    fastest = ("torch", "bf16") if has_bf16 else ("onnx", "fp32")
    assert (encoder.backend, encoder.precision) == fastest


def test_auto_by_precision_and_device():
    assert load_encoder(precision="int8").backend == "onnx"
    assert load_encoder(precision="bf16").backend == "torch"
    assert load_encoder(precision="fp32", device="cpu").backend == "onnx"
    onnx = load_encoder(backend="onnx")
    assert (onnx.backend, onnx.precision, onnx.device) == ("onnx", "fp32", "cpu")
    assert load_encoder(precision="fp32").device == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tensorflow"}, "a backend is one of auto, torch, onnx"),
        ({"precision": "fp8"}, "a precision is one of auto, fp32, bf16, int8"),
        ({"backend": "onnx", "precision": "bf16"}, "onnx backend has no precision bf16"),
        ({"backend": "torch", "precision": "int8"}, "torch backend has no precision int8"),
        ({"backend": "onnx", "device": "cuda"}, "runs on the CPU"),
        ({"precision": "int8", "device": "cuda"}, "precision int8 runs on the CPU"),
    ],
)
def test_what_does_not_go_together(arguments: dict, message: str):
    with pytest.raises(EncoderError, match=message):
        load_encoder(**arguments)


def test_without_torch_the_light_install_encodes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("unprompt.encoding.encoder._has_torch", lambda: False)
    encoder = load_encoder()
    assert (encoder.backend, encoder.precision) == ("onnx", "fp32")
    assert encoder.encode(["a cat"]).shape == (1, 384)
    with pytest.raises(MissingExtraError, match=r"unprompt\[train\]"):
        load_encoder(backend="torch")


def test_fingerprint_tells_precisions_and_weights_apart_but_not_backends(own_folder: Path):
    fp32 = load_encoder(backend="torch", precision="fp32", device="cpu")
    assert fp32.fingerprint == load_encoder(backend="onnx", precision="fp32").fingerprint
    int8 = load_encoder(backend="onnx", precision="int8").fingerprint
    assert fp32.fingerprint != int8
    renamed = own_folder.rename(own_folder.parent / DEFAULT_ENCODER.split("/")[1])
    copy = load_encoder(str(renamed), "onnx", "fp32")
    assert copy.fingerprint == fp32.fingerprint
    settings = renamed / "sentence_bert_config.json"
    settings.write_text(settings.read_text().replace("256", "128"))
    assert load_encoder(str(renamed), "onnx", "fp32").fingerprint != fp32.fingerprint


def test_repr_says_what_it_is(onnx_encoder: PromptEncoder):
    assert repr(onnx_encoder) == f"PromptEncoder('{DEFAULT_ENCODER}', onnx, fp32, cpu)"
