"""Prompts per second: our completion and one `generate` call per prompt.

The peer is the loop of mddunlap924/StableDiffusion2-Image-to-Text: batch 1, one call for each
prompt, max_length 40 to 77, top-k 8, repetition penalty 1.2, no token twice. Both use the same
weights: those of --model, or the architecture of distilgpt2 with random ones, which cost the same
(and seldom end a text early, in either loop).

    python benchmarks/compose.py [--model FOLDER] [--ours 256] [--theirs 24] [--threads 2]
"""

from __future__ import annotations

import argparse
import random
import time
from itertools import islice
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from unprompt.collecting.compose import compose
from unprompt.collecting.prompts.completion import Completer, Sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--ours", type=int, default=256, help="prompts of our run")
    parser.add_argument("--theirs", type=int, default=24, help="prompts of the peer's run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=64)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen.model:
        completer = Completer.from_pretrained(chosen.model, batch_size=chosen.batch_size)
    else:
        torch.manual_seed(0)
        config = GPT2Config(n_layer=6, bos_token_id=0, eos_token_id=0)
        model = GPT2LMHeadModel(config).to(device)
        model = model.half() if device == "cuda" else model
        completer = Completer(model, tokenizer(), Sampling(), chosen.batch_size)
    beginnings = list(islice(compose(10**6, seed=1, style="caption"), chosen.ours))

    completer.complete(beginnings[:4])
    one_by_one(completer, beginnings[:1])
    print(f"torch {torch.__version__} on {device}, {chosen.threads} threads")
    print("prompts a second     by the clock   of processor time")
    theirs = timed(lambda: one_by_one(completer, beginnings[: chosen.theirs]), chosen.theirs)
    # Printed at once, so that an interrupted run shows its results.
    print(
        f"one call per prompt  {theirs[0]:12.2f} {theirs[1]:19.2f}   ({chosen.theirs} prompts)",
        flush=True,
    )
    ours = timed(lambda: completer.complete(beginnings), chosen.ours)
    print(f"unprompt             {ours[0]:12.2f} {ours[1]:19.2f}   ({chosen.ours} prompts)")
    print(f"ratio                {ours[0] / theirs[0]:12.2f} {ours[1] / theirs[1]:19.2f}")


def one_by_one(completer: Completer, prompts: list[str]) -> list[str]:
    """The starting point's loop."""
    rng = random.Random(0)
    completed = []
    for prompt in prompts:
        ids = completer.tokenizer(prompt, return_tensors="pt").input_ids.to(completer.model.device)
        output = completer.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=8,
            max_length=rng.randint(40, 77),
            repetition_penalty=1.2,
            no_repeat_ngram_size=1,
            pad_token_id=0,
        )
        completed.append(completer.tokenizer.decode(output[0], skip_special_tokens=True))
    return completed


def timed(work: Any, count: int) -> tuple[float, float]:
    """Items per second of wall time and of processor time, which other processes change little."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return count / (time.perf_counter() - clock), count / (time.process_time() - processor)


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's, learned from composed prompts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=["<|endoftext|>"])
    bpe.train_from_iterator(compose(20_000), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")


if __name__ == "__main__":
    main()
