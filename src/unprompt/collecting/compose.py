"""Composed prompts written to a file; with a language model the work can be interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from unprompt.collecting.prompts.composition import compose, text_key
from unprompt.errors import OutputError, UnpromptError
from unprompt.files import atomic_open
from unprompt.pairs.prompt_file import write_prompts
from unprompt.progress import track

CHUNK = 2048
"""Prompts between two notes on disk: what a killed process loses at most."""

_ENDLESS = 2**62


class Completes(Protocol):
    """What completes prompts: `unprompt.collecting.prompts.completion.Completer`."""

    def complete(self, prompts: list[str], seed: int) -> list[str]:
        """The prompts with their continuations, in order."""
        ...


def write_composed(
    n: int,
    path: str | Path,
    seed: int = 0,
    style: str = "mixed",
    *,
    wordnet: bool = False,
    completer: Completes | None = None,
    description: str = "",
    chunk: int = CHUNK,
) -> None:
    """Write ``n`` distinct prompts to a text file, one a line.

    With a completer each prompt of the grammar is the beginning of one; those that come out the
    same as an earlier one are left out and others composed in their place. What is done is noted
    in ``.NAME.partial`` beside the file after every chunk, and a call with the same arguments
    after a killed one goes on from there; the file is then that of a call never stopped.

    Args:
        n: how many.
        path: the file to write.
        seed: another seed gives other prompts.
        style: as in `compose`.
        wordnet: as in `compose`.
        completer: completes the prompts.
        description: says which model and settings complete them; work noted under another
            description is discarded.
        chunk: prompts between two notes.

    Raises:
        UnpromptError: as `compose`, or completions repeat without end.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if completer is None:
        prompts = compose(n, seed, style, wordnet=wordnet)
        write_prompts(track(prompts, "composing", total=n), path)
        return
    header = {"n": n, "seed": seed, "style": style, "wordnet": wordnet}
    notes = path.with_name(f".{path.name}.partial")
    done = _read_notes(notes, {**header, "lm": description, "chunk": chunk})
    beginnings = compose(_ENDLESS, seed, style, wordnet=wordnet)
    chunks = _complete_chunks(n, seed, beginnings, completer, chunk, done, notes)
    prompts = (prompt for new in chunks for prompt in new)
    rest = n - sum(len(new) for _, new in done)
    done += [(0, list(track(prompts, "completing", total=rest)))]
    write_prompts((prompt for _, new in done for prompt in new), path)
    notes.unlink(missing_ok=True)


def _complete_chunks(
    n: int,
    seed: int,
    beginnings: Iterator[str],
    completer: Completes,
    chunk: int,
    done: list[tuple[int, list[str]]],
    notes: Path,
) -> Iterator[list[str]]:
    """Complete chunk after chunk until there are ``n`` prompts; note each before it is given."""
    drawn = sum(count for count, _ in done)
    seen = {text_key(prompt) for _, new in done for prompt in new}
    next(islice(beginnings, drawn, drawn), None)
    while len(seen) < n:
        batch = list(islice(beginnings, chunk))
        new = []
        for prompt in completer.complete(batch, seed):
            key = text_key(prompt)
            if key not in seen and len(seen) < n:
                seen.add(key)
                new.append(prompt)
        if not new:
            raise UnpromptError(
                f"{chunk} beginnings in a row were completed to prompts that are there already; "
                "use another seed, style or model"
            )
        _note(notes, {"drawn": len(batch), "prompts": new})
        yield new


def _read_notes(notes: Path, header: dict[str, object]) -> list[tuple[int, list[str]]]:
    """Chunks that an earlier call with the same header noted: beginnings drawn, prompts made."""
    lines = notes.read_bytes().split(b"\n") if notes.exists() else [b""]
    # A line without its line break was cut off by the end of the process that wrote it.
    whole = [json.loads(line) for line in lines[:-1]]
    if not whole or whole[0] != header:
        with atomic_open(notes) as file:
            file.write(json.dumps(header) + "\n")
        return []
    if lines[-1]:
        with atomic_open(notes, "wb") as file:
            file.write(b"\n".join(lines[:-1]) + b"\n")
    return [(line["drawn"], line["prompts"]) for line in whole[1:]]


def _note(notes: Path, entry: dict[str, object]) -> None:
    try:
        with notes.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
    except OSError as error:
        raise OutputError(f"cannot write {notes}: {error.strerror}") from error
