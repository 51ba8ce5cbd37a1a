"""Readings as text for people, in A1111 form, and as JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from unprompt.reading.infotext import format_infotext
from unprompt.reading.result import Lora, Reading, Settings, clean

CSV_COLUMNS = ("file", "prompt", "negative_prompt", "generator", "settings", "error")
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
_EMPTY: dict[str, Any] = Reading(None).to_dict(raw=False)


class Shown(NamedTuple):
    """The output for one file: ``text`` for standard output, ``note`` for standard error."""

    text: str | None
    note: str | None
    failed: bool


def show(
    path: Path,
    reading: Reading | None,
    problem: str | None,
    form: str = "text",
    everything: bool = False,
    named: bool = False,
    raw_csv: bool = False,
) -> Shown:
    """Format the answer for one file as the command line prints it.

    Args:
        path: the file.
        reading: what the file states, or None.
        problem: why the file could not be read; None if it could.
        form: ``text``, ``a1111`` (the form of AUTOMATIC1111's web UI), ``json`` (one object on one
            line) or ``csv`` (one row).
        everything: also print settings, other prompts and, in JSON, every raw text.
        named: print the file name on a line before the text.
        raw_csv: as in `csv_row`.
    """
    note = f"unprompt: {problem}" if problem is not None else None
    if form == "csv":
        return Shown(to_csv(str(path), reading, problem, raw_csv), note, problem is not None)
    if form == "json":
        return Shown(to_json(str(path), reading, problem, everything), note, problem is not None)
    if reading is None or (not reading.prompt and (form == "a1111" or not everything)):
        reasons = "; ".join(_instead(reading)) if reading else ""
        found = f"{path}: no prompt found{reasons and f' ({reasons})'}"
        return Shown(None, note or found, problem is not None)
    try:
        text = to_a1111(reading) if form == "a1111" else to_text(reading, everything)
    except ValueError as error:
        return Shown(None, f"unprompt: {path}: {error}", True)
    if named:
        text = "\n".join([str(path), *(f"    {line}" for line in text.split("\n"))])
    return Shown(text, note, problem is not None)


def _instead(reading: Reading) -> Iterator[str]:
    """What is known about a file without a prompt."""
    if reading.prompt is not None:
        yield "the stated prompt is empty"
    if reading.generator:
        yield f"made by {' '.join(reading.generator.split())}"
    if reading.declares_ai:
        yield "declares itself AI-generated"
    yield from reading.problems


def to_json(file: str, reading: Reading | None, error: str | None = None, raw: bool = False) -> str:
    """One JSON object on one line: ``file``, the keys of `Reading.to_dict`, ``error``.

    In a file name that is not valid Unicode the invalid bytes become U+FFFD, and ``file_bytes``
    has the true name in hexadecimal digits.
    """
    named = {"file": clean(file)}
    if named["file"] != file:
        named["file_bytes"] = file.encode("utf-8", "surrogateescape").hex()
    plain = reading.to_dict(raw) if reading else dict(_EMPTY)
    error = None if error is None else clean(error)
    return json.dumps({**named, **plain, "error": error}, ensure_ascii=False, allow_nan=False)


def to_csv(
    file: str, reading: Reading | None, error: str | None = None, raw_csv: bool = False
) -> str:
    """One CSV row of `CSV_COLUMNS`; the settings are a JSON object, without null values."""
    plain = reading.to_dict(raw=False) if reading else dict(_EMPTY)
    stated = {name: value for name, value in plain["settings"].items() if value}
    settings = json.dumps(stated, ensure_ascii=False, allow_nan=False) if stated else None
    values = {**plain, "file": clean(file), "settings": settings, "error": error and clean(error)}
    return csv_row([values[name] for name in CSV_COLUMNS], raw_csv)


def csv_row(values: Iterable[object], raw_csv: bool = False) -> str:
    """One row of CSV without its line break.

    A spreadsheet program computes a cell that begins with ``=``, ``+``, ``-`` or ``@``, and a
    formula can send other cells to a stranger's server. Such a text gets an apostrophe before it,
    as OWASP advises (https://owasp.org/www-community/attacks/CSV_Injection); numbers stay.

    Args:
        values: text, numbers, or None for an empty cell.
        raw_csv: write every text unchanged, for programs that read the file.
    """
    if not raw_csv:
        values = [f"'{v}" if isinstance(v, str) and v.startswith(_FORMULA) else v for v in values]
    row = io.StringIO()
    csv.writer(row).writerow(values)
    return row.getvalue().removesuffix("\r\n")


def to_a1111(reading: Reading) -> str:
    """The prompts and settings in A1111 form.

    Raises:
        ValueError: as in `infotext.format_infotext`.
    """
    return format_infotext(reading.prompt or "", reading.negative_prompt, reading.settings)


def to_text(reading: Reading, everything: bool = False) -> str:
    """The prompt with the main settings below, or with ``everything`` all, one item per line."""
    lines = _lines(reading) if everything else _summary(reading)
    return "\n".join(lines)


def _summary(reading: Reading) -> Iterator[str]:
    settings = reading.settings
    size = settings.size
    stated = {
        "model": settings.model,
        "seed": settings.seed,
        "steps": settings.steps,
        "sampler": settings.sampler,
        "size": f"{size[0]} x {size[1]}" if size else None,
        "LoRAs": ", ".join(map(_lora, settings.loras)) or None,
        "note": None if reading.certain else "a best guess; the file does not state it for certain",
    }
    yield reading.prompt or ""
    for name, value in stated.items():
        if value is not None:
            yield f"  {name:9}{' '.join(str(value).split())}"


def _lora(lora: Lora) -> str:
    return lora.name if lora.weight is None else f"{lora.name} ({lora.weight:g})"


def _lines(reading: Reading) -> Iterator[str]:
    yield from _block("prompt", reading.prompt)
    yield from _block("negative prompt", reading.negative_prompt)
    name = " ".join(part for part in (reading.generator, reading.version) if part)
    yield from _block("generator", name or None)
    for item in fields(Settings):
        value = getattr(reading.settings, item.name)
        if item.name == "loras":
            yield from (f"lora: {_lora(lora)}" for lora in value)
        elif item.name == "other":
            for key, text in value.items():
                yield from _block(key, text)
        elif value is not None:
            yield from _block(item.name.replace("_", " "), str(value))
    for prompt in reading.prompts:
        if prompt.text not in (reading.prompt, reading.negative_prompt):
            source = f", {prompt.source}" if prompt.source else ""
            yield from _block(f"also ({prompt.role}{source})", prompt.text)
    if not reading.certain:
        yield "certain: no, the prompt is a best guess"
    if reading.declares_ai:
        yield "declares itself AI-generated: yes"
    for place in reading.where:
        yield f"found in: {place}"
    for problem in reading.problems:
        yield f"problem: {problem}"


def _block(label: str, text: str | None) -> Iterator[str]:
    if text is None:
        return
    if "\n" not in text:
        yield f"{label}: {text}"
        return
    yield f"{label}:"
    yield from (f"    {line}" for line in text.split("\n"))
