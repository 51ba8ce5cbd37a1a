import hashlib
import random
import re
import subprocess
import sys
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from unprompt.collecting.compose import STYLES, compose, compose_file
from unprompt.collecting.prompts.grammar import Grammar, load_grammar
from unprompt.errors import UnpromptError

UNPROMPT = str(Path(sys.executable).with_name("unprompt"))


@pytest.mark.parametrize("style", STYLES)
def test_prompts_are_distinct_and_follow_the_seed(style: str) -> None:
    prompts = list(compose(2000, seed=3, style=style))
    assert len(prompts) == len(set(prompts)) == 2000
    assert prompts[:100] == list(compose(100, seed=3, style=style))
    assert set(prompts[:100]).isdisjoint(list(compose(100, seed=4, style=style)))


@pytest.mark.parametrize("style", STYLES)
def test_prompts_read_like_text(style: str) -> None:
    for prompt in compose(3000, style=style):
        assert prompt == " ".join(prompt.split()), prompt
        assert not set(prompt) & set("{}[]~*\n"), prompt
        assert 1 <= len(prompt.split()) <= 60, prompt
        assert not re.search(r"\ba [aei]", prompt), prompt
        assert not any(a == b == "a" for a, b in pairwise(prompt.split())), prompt


@pytest.mark.parametrize("style", ["caption", "artist"])
def test_over_a_million_prompts_can_be_composed(style: str) -> None:
    assert load_grammar().count(style) > 10**12
    # Were there only a million equally likely ones, 60,000 draws would meet about 1,770 twice.
    grammar, rng, draws = load_grammar(), random.Random(0), 60_000
    distinct = len({grammar.sample(style, rng) for _ in range(draws)})
    assert draws - distinct < 1_700


def test_captions_name_no_painter_and_artists_often_do() -> None:
    painters = [line for line in _words("painter") if len(line) > 6]
    captions = list(compose(1000, style="caption"))
    artists = list(compose(1000, style="artist"))
    assert not any(name in prompt for prompt in captions for name in painters)
    assert sum(any(name in prompt for name in painters) for prompt in artists) > 200


def test_the_same_in_another_process() -> None:
    code = (
        "from unprompt.collecting.compose import compose; "
        "import hashlib; print(hashlib.sha256('\\n'.join(compose(500)).encode()).hexdigest())"
    )
    here = hashlib.sha256("\n".join(compose(500)).encode()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_wrong_calls_are_refused_at_once() -> None:
    with pytest.raises(UnpromptError, match="unknown style 'sonnet'"):
        compose(1, style="sonnet")
    with pytest.raises(UnpromptError, match="-1 prompts"):
        compose(-1)


def test_more_prompts_than_there_are_end_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Grammar({"caption": ["a {x}"], "x": ["cat", "dog"]})
    monkeypatch.setattr("unprompt.collecting.compose.load_grammar", lambda: few)
    prompts = compose(3, style="caption")
    assert {next(prompts), next(prompts)} == {"a cat", "a dog"}
    with pytest.raises(UnpromptError, match="only 2 distinct prompts"):
        next(prompts)


def test_the_verb_writes_the_prompts(tmp_path: Path) -> None:
    target = tmp_path / "prompts.txt"
    call = [UNPROMPT, "compose", "-n", "50", "--seed", "5"]
    done = subprocess.run([*call, "-o", str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert target.read_text(encoding="utf-8").splitlines() == list(compose(50, seed=5))
    wrong = subprocess.run([*call, "--style", "x", "-o", str(target)], capture_output=True)
    assert wrong.returncode == 2


def _words(name: str) -> list[str]:
    file = files("unprompt.collecting.prompts").joinpath("words", f"{name}.txt")
    return file.read_text(encoding="utf-8").splitlines()


class _StopError(Exception):
    pass


class _Shouting:
    """Completes by three words; stops after some chunks where it is told to."""

    def __init__(self, chunks: int | None = None):
        self.chunks = chunks
        self.asked: list[str] = []

    def complete(self, prompts: list[str], seed: int) -> list[str]:
        if self.chunks is not None and self.chunks <= 0:
            raise _StopError
        if self.chunks is not None:
            self.chunks -= 1
        self.asked += prompts
        return [f"{prompt[:12]} and so on {seed}" for prompt in prompts]


def test_completed_prompts_are_distinct_and_resumed(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.txt", tmp_path / "cut.txt"
    compose_file(100, whole, completer=_Shouting(), chunk=16)
    lines = whole.read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines) == 100
    with pytest.raises(_StopError):
        compose_file(100, cut, completer=_Shouting(3), chunk=16)
    assert not cut.exists()
    notes = tmp_path / ".cut.txt.partial"
    with notes.open("a", encoding="utf-8") as file:
        file.write('{"beginnings": 16, "pro')
    rest = _Shouting()
    compose_file(100, cut, completer=rest, chunk=16)
    assert cut.read_bytes() == whole.read_bytes()
    assert rest.asked[0] == list(compose(49))[48]
    assert not notes.exists()


def test_work_of_other_arguments_is_discarded(tmp_path: Path) -> None:
    with pytest.raises(_StopError):
        compose_file(50, tmp_path / "a.txt", 1, completer=_Shouting(1), chunk=16)
    compose_file(50, tmp_path / "a.txt", 2, completer=_Shouting(), chunk=16)
    compose_file(50, tmp_path / "b.txt", 2, completer=_Shouting(), chunk=16)
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()


def test_completions_that_only_repeat_end_in_an_error(tmp_path: Path) -> None:
    class Same:
        def complete(self, prompts: list[str], seed: int) -> list[str]:
            return ["always this"] * len(prompts)

    with pytest.raises(UnpromptError, match="repeat earlier ones"):
        compose_file(2, tmp_path / "a.txt", completer=Same(), chunk=8)
