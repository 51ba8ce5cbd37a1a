"""The decoder: cache, generation, saving, export, and the same texts without torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unprompt.errors import ModelNotFoundError
from unprompt.models.decoder.decoder_onnx import export_decoder
from unprompt.models.decoder.network import DecoderConfig, DecoderModel
from unprompt.models.decoder.runtime import TextDecoder
from unprompt.models.decoder.tokenizer import (
    STOP,
    load_tokenizer,
    save_tokenizer,
    texts_of,
    train_tokenizer,
)

TEXTS = [f"a {thing} on a {place}" for thing in ("cat", "dog", "fox") for place in ("mat", "hill")]
DIM = 16


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 5, 300)


@pytest.fixture(scope="module")
def model(tokenizer) -> DecoderModel:
    """Random weights, large enough that its choices are its own."""
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=tokenizer.get_vocab_size(),
        embedding_dim=DIM,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        prefix_length=3,
        context_length=9,
    )
    model = DecoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def asked(rows: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_cache_changes_nothing(model):
    embeddings = asked(4)
    exact = model.write(embeddings, num_beams=3, use_cache=False)
    assert torch.equal(model.write(embeddings, num_beams=3), exact)
    ids = torch.cat([model.start_ids(4), torch.randint(2, 200, (4, 6))], dim=1)
    with torch.no_grad():
        whole = model(ids, embeddings).logits
        begun = model(ids[:, :5], embeddings, use_cache=True)
        rest = model(ids[:, 5:], embeddings, past_key_values=begun.past_key_values).logits
    torch.testing.assert_close(torch.cat([begun.logits, rest], dim=1), whole)


def test_every_token_sees_the_embedding_and_none_sees_what_follows(model):
    ids = torch.cat([model.start_ids(1), torch.randint(2, 200, (1, 5))], dim=1)
    other = ids.clone()
    other[0, -1] += 1
    with torch.no_grad():
        before = model(ids, asked(1)).logits
        changed = (model(ids, asked(1, seed=1)).logits - before).abs().amax(dim=-1)
        assert (changed > 1e-3).all()
        torch.testing.assert_close(model(other, asked(1)).logits[:, :-1], before[:, :-1])


def test_the_loss_is_that_of_the_labelled_tokens(model):
    ids = torch.cat([model.start_ids(2), torch.randint(2, 200, (2, 5))], dim=1)
    labels = ids.masked_fill(
        torch.tensor([[True] * 3 + [False] * 5, [True] * 6 + [False] * 2]), -100
    )
    with torch.no_grad():
        loss = model(ids, asked(2), labels=labels).loss
        logits = model(ids, asked(2)).logits[:, :-1]
    expected = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_texts_that_are_too_long(model):
    with pytest.raises(ValueError, match="13 tokens exceed the context of 12"):
        model(model.start_ids(1).repeat(1, 5)[:, :13], asked(1))
    with pytest.raises(ValueError, match="does not divide"):
        DecoderConfig(hidden_size=30)


def test_what_was_saved_is_loaded(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    loaded = DecoderModel.from_pretrained(tmp_path).eval()
    assert loaded.head.weight is loaded.tokens.weight
    assert torch.equal(loaded.write(asked(3)), model.write(asked(3)))
    assert load_tokenizer(tmp_path).to_str() == tokenizer.to_str()
    with pytest.raises(ModelNotFoundError, match="is not a decoder"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_start_from_the_encoder_names_the_words(tokenizer):
    """Before any training the token nearest to an embedding is among the likelier ones."""
    torch.manual_seed(0)
    size = tokenizer.get_vocab_size()
    config = DecoderConfig(vocab_size=size, embedding_dim=DIM, hidden_size=32, num_hidden_layers=2)
    vectors = asked(size, seed=4)
    model = DecoderModel(config).eval()
    before = ranks(model, vectors)
    model.start_from(vectors)
    assert ranks(model, vectors).float().median() < before.float().median() / 2


def ranks(model: DecoderModel, vectors: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = model(model.start_ids(len(vectors)), vectors).logits[:, -1]
    return (logits > logits.diagonal()[:, None]).sum(dim=1)


def test_texts_come_back_in_lower_case(tokenizer):
    rows = [[*encoded.ids, STOP, 5, 6] for encoded in tokenizer.encode_batch(["A  Cat é😀", ""])]
    assert texts_of(tokenizer, rows) == ["a  cat é😀", ""]


@pytest.fixture(scope="module")
def exported(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    export_decoder(model, tokenizer, folder / "decoder", int8=False)
    return folder


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_without_torch_the_texts_are_those_of_transformers(model, tokenizer, exported, beams):
    embeddings = asked(40, seed=2)
    decoder = TextDecoder.of(exported)
    written = decoder.write(embeddings.numpy() * 7, top_k=beams, beams=beams)
    ids = model.write(embeddings, num_beams=beams, num_return_sequences=beams)
    expected = texts_of(tokenizer, ids.tolist())
    for row, texts in enumerate(written):
        theirs = list(dict.fromkeys(expected[row * beams : (row + 1) * beams]))
        assert [text.prompt for text in texts] == theirs


def test_scores_are_the_mean_log_probability(model, exported):
    [[text]] = TextDecoder.of(exported).write(asked(1, seed=9).numpy(), beams=1)
    ids = model.write(asked(1, seed=9), return_dict_in_generate=False)
    whole = torch.cat([model.start_ids(1), ids], dim=1)
    with torch.no_grad():
        logs = model(whole, asked(1, seed=9)).logits.log_softmax(dim=-1)[0, 2:-1]
    chosen = logs.gather(1, ids[0][:, None])[:, 0]
    length = int((ids[0] == STOP).nonzero()[0]) + 1 if STOP in ids[0] else len(chosen)
    assert text.score == pytest.approx(chosen[:length].mean().item(), abs=1e-4)


def test_sampling_is_seeded_and_distinct(exported):
    decoder = TextDecoder.of(exported)
    embeddings = asked(2).numpy()
    drawn = decoder.write(embeddings, top_k=5, top_p=0.9, seed=3)
    assert decoder.write(embeddings, top_k=5, top_p=0.9, seed=3) == drawn
    assert decoder.write(embeddings, top_k=5, top_p=0.9, seed=4) != drawn
    for texts in drawn:
        assert len({text.prompt for text in texts}) == len(texts)


def test_in_8_bits_it_is_smaller_and_nearly_the_same(model, tokenizer, exported, tmp_path):
    path = export_decoder(model, tokenizer, tmp_path, int8=True)
    assert path.stat().st_size < 0.7 * (exported / "decoder" / "decoder.onnx").stat().st_size
    run = {
        folder: TextDecoder(folder).write(asked(20).numpy(), beams=1)
        for folder in (tmp_path, exported / "decoder")
    }
    rounded, exact = (np.array([t.score for (t,) in texts]) for texts in run.values())
    assert np.abs(rounded - exact).mean() < 0.1


def test_folders_that_hold_no_decoder(exported, tmp_path):
    assert TextDecoder.of(tmp_path) is None
    stated = json.loads((exported / "decoder" / "config.json").read_text())
    assert stated["encoder"] == DecoderConfig().encoder
    assert TextDecoder.of(exported).calibration is None
