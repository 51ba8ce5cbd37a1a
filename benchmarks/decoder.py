"""The decoder beside the nearest prompt of a bank of its own training texts.

Run: python benchmarks/decoder.py RUN [--model builtin] [--table split.parquet] [--texts 400]

RUN is the folder of a finished run of recipes/decoder.yaml. Every answer is encoded again. For
held-out texts the target is the true embedding, or the true one blurred as in training. For
held-out pairs the target is the embedding that an embedder predicts from the image, and the cosine
to the true prompt counts. The decoder runs as it is shipped, in 8 bits on ONNX Runtime, and also in
torch.
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
from unprompt.predicting.bank_or_decoder import bank_for
from unprompt.predicting.loading import load_model
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
    print(
        "\n| target | answer | cosine to target | to true prompt | words |\n|---|---|---|---|---|"
    )
    for targets, target in (("held-out text", true), ("the same, blurred", blurred.numpy())):
        rows(targets, target, true, decoder, bank, encoder)
    with torch.no_grad():
        ids = model.write(torch.from_numpy(true), num_beams=4)
    line("held-out text", "decoder, torch", texts_of(tokenizer, ids.tolist()), true, true, encoder)
    if options.table:
        embedder = load_model(options.model)
        evaluation = evaluate(embedder, load(options.table), "test")
        groups = np.array(evaluation.pairs.column("group"))
        targets = f"predicted by {options.model}"
        target, true = evaluation.predicted, evaluation.true
        score = mean_with_interval(cosines(target, true), groups)
        print(f"| {targets} | (the embedding itself) | | {score} | |")
        rows(targets, target, true, decoder, bank, encoder, groups)
        own = [found[0].prompt for found in bank_for(embedder).search(target)]
        line(targets, "the model's own bank", own, target, true, encoder, groups)
        mean = known.mean(axis=0, keepdims=True)
        prior = [bank.search(mean)[0][0].prompt] * len(true)
        name = "one prompt for all, nearest to the mean"
        line(targets, name, prior, target, true, encoder, groups)
        regressed = bank.regress(target, CANDIDATES)
        score = mean_with_interval(cosines(regressed, true), groups)
        print(f"| {targets} | (kNN regression, 10 of the bank) | | {score} | |")


def rows(targets, target, true, decoder, bank, encoder, groups=None) -> None:
    """Bank, decoder, and candidates of each ranked again by their cosine to the target."""
    started = time.process_time()
    written = decoder.write(target)
    seconds = time.process_time() - started
    found = bank.search(target, CANDIDATES)
    line(targets, "bank", [best.prompt for best, *_ in found], target, true, encoder, groups)
    line(targets, "decoder", [best.prompt for best, *_ in written], target, true, encoder, groups)
    beams = [[t.prompt for t in row] for row in decoder.write(target, CANDIDATES, CANDIDATES)]
    sampled = [[t.prompt for t in row] for row in decoder.write(target, CANDIDATES, top_p=0.9)]
    nearest = [[match.prompt for match in row] for row in found]
    for name, pools in (
        ("decoder, 10 beams, reranked", [beams]),
        ("decoder, 10 samples, reranked", [sampled]),
        ("bank and decoder, reranked", [nearest, beams]),
    ):
        chosen = [
            best([text for pool in pools for text in pool[row]], target[row], encoder)
            for row in range(len(target))
        ]
        line(targets, name, chosen, target, true, encoder, groups)
    print(f"<!-- {targets}: {1000 * seconds / len(target):.1f} ms of processor time a text -->")


def best(texts: list[str], target: np.ndarray, encoder) -> str:
    return texts[int((encode(texts, encoder) @ target).argmax())]


def line(targets, name, texts, target, true, encoder, groups=None) -> None:
    written = encode(texts, encoder)
    to_target = mean_with_interval(cosines(written, target), groups)
    to_true = mean_with_interval(cosines(written, true), groups)
    words = np.mean([len(text.split()) for text in texts])
    print(f"| {targets} | {name} | {to_target} | {to_true} | {words:.1f} |", flush=True)


if __name__ == "__main__":
    main()
