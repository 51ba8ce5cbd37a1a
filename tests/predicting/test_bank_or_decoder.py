"""The route through a decoder, and candidates of bank and decoder ranked again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from unprompt.encoding import encode
from unprompt.errors import UnpromptError
from unprompt.models.bank.bank import Bank
from unprompt.models.calibration import Calibration
from unprompt.models.decoder.runtime import TextDecoder, save_calibration
from unprompt.predicting import bank_or_decoder
from unprompt.predicting.loading import builtin_folder
from unprompt.predicting.predictor import Predictor

from .conftest import picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model with a tiny decoder of random weights."""
    torch = pytest.importorskip("torch")
    from unprompt.models.decoder.decoder_onnx import export_decoder
    from unprompt.models.decoder.network import DecoderConfig, DecoderModel
    from unprompt.models.decoder.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(builtin_folder(), folder, ignore=shutil.ignore_patterns("decoder"))
    tokenizer = train_tokenizer(["a red fox in the snow", "a castle at dusk"] * 5, 300)
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        context_length=6,
    )
    model = DecoderModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    export_decoder(model, tokenizer, folder / "decoder", int8=False)
    return folder


def test_the_decoder_writes_what_it_would_for_the_embedding(folder: Path) -> None:
    answer = Predictor(folder, route="decode", top_k=3).predict(picture(0))
    assert answer.route == "embed+decode"
    assert answer.score is None
    assert answer.embedding is not None
    decoder = TextDecoder.of(folder)
    assert decoder is not None
    (texts,) = decoder.write(answer.embedding[None], top_k=3)
    prompts = [answer.prompt, *(item.prompt for item in answer.alternatives)]
    assert prompts == [text.prompt for text in texts]


def test_the_built_in_decoder_says_what_an_embedding_means() -> None:
    prompts = [
        "a red fox in the snow",
        "portrait of an old sailor, oil painting",
        "a castle on a hill at sunset, concept art",
        "a bowl of ramen on a wooden table",
        "a robot playing chess in a library",
    ]
    embeddings = encode(prompts)
    decoder = TextDecoder.of(builtin_folder())
    assert decoder is not None
    written = [texts[0].prompt for texts in decoder.write(embeddings)]
    assert written[0] == prompts[0]
    cosines = (encode(written) * embeddings).sum(axis=1)
    nearest = [match[0].cosine for match in Bank.load(builtin_folder()).search(embeddings)]
    assert (cosines > nearest).all()
    assert cosines.mean() > 0.9


def test_auto_takes_what_measured_better(folder: Path) -> None:
    assert Predictor(folder).predict(picture(0)).route == "embed+bank"
    curve = Calibration((-5.0, 0.0), (0.2, 0.5), 10, 0.1)
    path = folder / "decoder" / "config.json"
    before = path.read_text()
    save_calibration(folder / "decoder", curve, preferred=True)
    try:
        answer = Predictor(folder).predict(picture(0))
        assert answer.route == "embed+decode"
        assert answer.score is not None
        assert 0.2 <= answer.score <= 0.5
        # Nobody measured texts that were sampled, nor those of an averaged embedding.
        sampled = Predictor(folder, route="decode", top_p=0.9)
        assert sampled.predict(picture(0)).score is None
        assert Predictor(folder, route="decode", knn=3).predict(picture(0)).score is None
        assert Predictor(folder, route="embed").predict(picture(0)).route == "embed+bank"
    finally:
        path.write_text(before)


def test_ranked_again_the_nearest_text_is_first(folder: Path) -> None:
    predictor = Predictor(folder, rerank=True, top_k=4)
    answers = list(predictor.stream([picture(1), picture(2)]))
    for answer in answers:
        prompts = [answer.prompt, *(item.prompt for item in answer.alternatives)]
        cosines = encode([prompt or "" for prompt in prompts]) @ answer.embedding
        assert (np.diff(cosines) <= 1e-6).all()
        assert {answer.score, *(item.score for item in answer.alternatives)} == {None}
        bank = Predictor(folder, route="embed").predict(picture(1 + answers.index(answer)))
        assert cosines[0] >= encode([bank.prompt or ""])[0] @ answer.embedding - 1e-6


def test_decoders_that_are_not_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("decoder"))
    monkeypatch.setattr(bank_or_decoder, "builtin_folder", lambda: bare)
    with pytest.raises(UnpromptError, match="there is no decoder"):
        Predictor(bare, route="decode").predict(picture(0))
    assert Predictor(bare, rerank=True).predict(picture(0)).route == "embed+bank"
    # A model without one uses the built-in model's, whose worth beside it nobody measured.
    monkeypatch.setattr(bank_or_decoder, "builtin_folder", lambda: folder)
    assert Predictor(bare, route="decode").predict(picture(0)).route == "embed+decode"
    stated = json.loads((folder / "decoder" / "config.json").read_text())
    shutil.copytree(folder / "decoder", bare / "decoder")
    (bare / "decoder" / "config.json").write_text(json.dumps(stated | {"encoder": "other"}))
    with pytest.raises(UnpromptError, match="there is no decoder"):
        Predictor(bare, route="decode").predict(picture(0))
    (bare / "decoder" / "config.json").write_text("{}")
    with pytest.raises(UnpromptError, match="damaged"):
        Predictor(bare, route="decode").predict(picture(0))
