import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.collecting.prompts.lm import save_lm
from unprompt.cli import app
from unprompt.collecting.compose import compose, compose_file
from unprompt.collecting.prompts.completion import Completer, Sampling
from unprompt.errors import ModelNotFoundError, UnpromptError

SHORT = Sampling(min_length=40, max_length=48)


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lm(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lm(tmp_path_factory.mktemp("lm"))


def test_prompts_are_continued_to_their_length(folder: Path) -> None:
    completer = Completer.from_pretrained(str(folder), SHORT, batch_size=8)
    prompts = list(compose(30, style="caption"))
    completed = completer.complete(prompts)
    assert completed == completer.complete(prompts)
    assert completed != completer.complete(prompts, seed=1)
    for before, after in zip(prompts, completed, strict=True):
        assert after.startswith(before)
        assert "\n" not in after
        assert "endoftext" not in after
    # Random weights hardly ever end a text, so most prompts grow.
    assert sum(before != after for before, after in zip(prompts, completed, strict=True)) > 20


def test_lengths_are_as_asked(gpt2: Path) -> None:
    completer = Completer.from_pretrained(str(gpt2), Sampling(30, 30), batch_size=4)
    lengths = {}

    def spy(tokens: list[list[int]], count: int, ending: str) -> list[list[int]]:
        new = Completer._generate(completer, tokens, count, ending)
        lengths.update({tuple(t): len(t) + len(n) for t, n in zip(tokens, new, strict=True)})
        assert all(len(row) <= count for row in new)
        return new

    completer._generate = spy  # type: ignore[method-assign]
    completer.complete(list(compose(12, style="caption")))
    assert lengths
    assert max(lengths.values()) >= 30


def test_a_long_prompt_and_an_empty_one_are_returned_as_they_are(gpt2: Path) -> None:
    completer = Completer.from_pretrained(str(gpt2), SHORT)
    long = " ".join(compose(20))
    assert completer.complete([long, ""]) == [long, ""]


def test_padding_does_not_change_the_likelihoods(gpt2: Path) -> None:
    """With top-k 1 nothing is left to the lot: a row is the same alone and beside longer ones."""
    sampling = Sampling(20, 20, top_k=1)
    prompts = ["a cat", "a red house"]
    together = Completer.from_pretrained(str(gpt2), sampling, batch_size=2).complete(prompts)
    alone = Completer.from_pretrained(str(gpt2), sampling, batch_size=1).complete(prompts)
    assert together == alone


def test_no_token_comes_twice_unless_allowed(gpt2: Path) -> None:
    completer = Completer.from_pretrained(str(gpt2), Sampling(40, 40, top_k=1))
    end = completer.tokenizer.eos_token_id

    def repeats(completer: Completer) -> int:
        start = completer.tokenizer("a cat and dog")["input_ids"]
        assert len(set(start)) == len(start)
        new = completer._generate([start, start[:1]], 30, "x")
        assert all(end not in row for row in new)
        return sum(len(row) - len(set(row)) for row in new)

    assert repeats(completer) == 0
    completer.sampling = Sampling(40, 40, top_k=1, repeat_tokens=True, repetition_penalty=1.0)
    assert repeats(completer) > 0


def test_our_loop_agrees_with_transformers_own_processors(gpt2: Path) -> None:
    """Greedy, one row, no padding: the same as transformers' repetition penalty."""
    completer = Completer.from_pretrained(
        str(gpt2), Sampling(30, 30, top_k=1, repeat_tokens=True, repetition_penalty=1.3)
    )
    start = completer.tokenizer("a painting of a red house")["input_ids"]
    ours = completer._generate([start], 20, "x")[0]
    theirs = completer.model.generate(
        torch.tensor([start]), do_sample=False, repetition_penalty=1.3, max_new_tokens=20
    )[0, len(start) :].tolist()
    assert ours == [token for token in theirs if token != completer.tokenizer.eos_token_id]


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        Completer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("wrong", [{"min_length": 0}, {"min_length": 90}, {"top_k": 0}])
def test_sampling_that_makes_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(UnpromptError, match="is not possible"):
        Sampling(**wrong)


_KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from unprompt.collecting.prompts.completion import Completer, Sampling
from unprompt.collecting.compose import compose_file

folder, target = sys.argv[1], Path(sys.argv[2])
notes, rng, halfway = target.with_name(f".{target.name}.partial"), random.Random(0), 0
completer = Completer.from_pretrained(folder, Sampling(40, 48), 8)
for _ in range(2):  # the second tells what a chunk takes
    began = time.process_time()
    compose_file(8, target.with_name("few.txt"), completer=completer, description="x", chunk=8)
chunk = time.process_time() - began
for _ in range(20):
    seconds = rng.uniform(0.1, 2.5) * chunk
    child = os.fork()
    if child == 0:
        # Of the processor, not of the clock: beside other work it comes no further.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        compose_file(200, target, completer=completer, description="x", chunk=8)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGPROF
    halfway += killed and notes.exists() and len(notes.read_bytes().splitlines()) > 1
print(halfway)
"""


def test_killed_at_random_it_ends_as_if_never_stopped(gpt2: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed.txt", tmp_path / "whole.txt"
    call = [sys.executable, "-c", _KILLER, str(gpt2), str(killed)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10, "runs came to their end before they were killed"
    completer = Completer.from_pretrained(str(gpt2), SHORT, 8)
    for target in (killed, whole):
        compose_file(200, target, completer=completer, description="x", chunk=8)
    assert killed.read_bytes() == whole.read_bytes()
    assert len(set(whole.read_text(encoding="utf-8").splitlines())) == 200


def test_the_verb(gpt2: Path, tmp_path: Path) -> None:
    target = tmp_path / "prompts.txt"
    call = ["compose", "-n", "20", "--lm", str(gpt2), "-o", str(target), "--diversity"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert len(target.read_text(encoding="utf-8").splitlines()) == 20
    assert "nearest cosine" in done.stdout
