"""The decoder against the nearest prompt of a bank of the very texts that it learned from.

Run: python benchmarks/decoder.py RUN [--model builtin] [--table split.parquet] [--texts 400]

RUN is the folder of a finished run of recipes/decoder.yaml. Every text is encoded again. On
held-out texts the embedding that is asked for is the true one, and one blurred as in training; on
held-out pairs it is the one that an embedder predicts from the picture, and counted is the cosine
to the true prompt. The decoder runs as it is shipped, in 8 bits on ONNX Runtime, beside the same
one in torch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from unprompt.encoding import encode, load_encoder
from unprompt.evaluating.evaluation import evaluate
from unprompt.evaluating.metrics import cosines, mean_with_interval
from unprompt.models.bank.bank import Bank
from unprompt.models.decoder.decoder_onnx import export_decoder
from unprompt.models.decoder.network import DecoderModel
from unprompt.models.decoder.runtime import TextDecoder
from unprompt.models.decoder.tokenizer import load_tokenizer, texts_of
from unprompt.pairs.table import load
from unprompt.predicting.loading import load_model
from unprompt.predicting.text_sources import bank_for
from unprompt.training.recipe import load_recipe
from unprompt.training.train_decoder import Blur

CANDIDATES = 10


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--table", type=Path, help="Pairs table with splits; measured on 'test'.")
    parser.add_argument("--texts", type=int, default=400)
    options = parser.parse_args()

    texts = load(options.run / "pairs.parquet")
    known, held_out = texts.of_split("train"), texts.of_split("val")
    bank = Bank.build(known.prompts, known.embeddings, "")
    model = DecoderModel.from_pretrained(options.run / "model").eval()
    tokenizer = load_tokenizer(options.run / "model")
    with tempfile.TemporaryDirectory() as folder:
        size = export_decoder(model, tokenizer, folder).stat().st_size
        decoder = TextDecoder(folder)
        print(f"{size / 1e6:.1f} MB, {sum(p.numel() for p in model.parameters()):,} parameters")
        report(decoder, model, tokenizer, bank, options, held_out.prompts, known.embeddings)


def report(decoder, model, tokenizer, bank, options, texts, known) -> None:
    encoder = load_encoder(model.config.encoder, precision="fp32")
    texts = np.random.default_rng(0).permutation(texts)[: options.texts].tolist()
    true = encode(texts, encoder)
    settings = load_recipe(options.run / "recipe.yaml").decoder
    blurred = Blur.of(known, settings)(torch.from_numpy(true), torch.Generator().manual_seed(0))
    print("\n| asked for | answer | to asked | to true | words |\n|---|---|---|---|---|")
    for kind, asked in (("held-out text", true), ("the same, blurred", blurred.numpy())):
        rows(kind, asked, true, decoder, bank, encoder)
    with torch.no_grad():
        ids = model.write(torch.from_numpy(true), num_beams=4)
    line("held-out text", "decoder, torch", texts_of(tokenizer, ids.tolist()), true, true, encoder)
    if options.table:
        embedder = load_model(options.model)
        evaluation = evaluate(embedder, load(options.table), "test")
        groups = np.array(evaluation.pairs.column("group"))
        kind = f"predicted by {options.model}"
        asked, true = evaluation.predicted, evaluation.true
        score = mean_with_interval(cosines(asked, true), groups)
        print(f"| {kind} | (the embedding itself) | | {score} | |")
        rows(kind, asked, true, decoder, bank, encoder, groups)
        own = [found[0].prompt for found in bank_for(embedder).search(asked)]
        line(kind, "the model's own bank", own, asked, true, encoder, groups)
        mean = known.mean(axis=0, keepdims=True)
        prior = [bank.search(mean)[0][0].prompt] * len(true)
        line(kind, "one prompt for all, nearest to the mean", prior, asked, true, encoder, groups)
        regressed = bank.regress(asked, CANDIDATES)
        score = mean_with_interval(cosines(regressed, true), groups)
        print(f"| {kind} | (kNN regression, 10 of the bank) | | {score} | |")


def rows(kind, asked, true, decoder, bank, encoder, groups=None) -> None:
    """Bank, decoder, and candidates of each ranked again by their cosine to what is asked for."""
    started = time.process_time()
    written = decoder.write(asked)
    seconds = time.process_time() - started
    found = bank.search(asked, CANDIDATES)
    line(kind, "bank", [best.prompt for best, *_ in found], asked, true, encoder, groups)
    line(kind, "decoder", [best.prompt for best, *_ in written], asked, true, encoder, groups)
    beams = [[t.prompt for t in row] for row in decoder.write(asked, CANDIDATES, CANDIDATES)]
    drawn = [[t.prompt for t in row] for row in decoder.write(asked, CANDIDATES, top_p=0.9)]
    nearest = [[match.prompt for match in row] for row in found]
    for name, pools in (
        ("decoder, 10 beams, reranked", [beams]),
        ("decoder, 10 samples, reranked", [drawn]),
        ("bank and decoder, reranked", [nearest, beams]),
    ):
        chosen = [
            best([text for pool in pools for text in pool[row]], asked[row], encoder)
            for row in range(len(asked))
        ]
        line(kind, name, chosen, asked, true, encoder, groups)
    print(f"<!-- {kind}: {1000 * seconds / len(asked):.1f} ms of processor time a text -->")


def best(texts: list[str], asked: np.ndarray, encoder) -> str:
    return texts[int((encode(texts, encoder) @ asked).argmax())]


def line(kind, name, texts, asked, true, encoder, groups=None) -> None:
    written = encode(texts, encoder)
    to_asked = mean_with_interval(cosines(written, asked), groups)
    to_true = mean_with_interval(cosines(written, true), groups)
    words = np.mean([len(text.split()) for text in texts])
    print(f"| {kind} | {name} | {to_asked} | {to_true} | {words:.1f} |", flush=True)


if __name__ == "__main__":
    main()
