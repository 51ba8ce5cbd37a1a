"""Write answers as text, JSON lines, CSV or a Kaggle submission, one by one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import indent
from typing import IO

import numpy as np

from unprompt.encoding import load_encoder
from unprompt.predicting.answer import Answer
from unprompt.reading.formatting import csv_row

Writer = Callable[[Iterable[Answer], IO[str], str], Iterator[Answer]]


def write_answers(
    answers: Iterable[Answer],
    file: IO[str],
    form: str = "text",
    encoder: str = "",
    raw_csv: bool = False,
) -> Iterator[Answer]:
    """Write each answer and yield it, so that the caller can count.

    Args:
        answers: in input order.
        file: open for writing text, with ``newline=""`` for ``csv`` and ``kaggle``.
        form: a format, see `FORMATS`.
        encoder: the target encoder, for ``kaggle``.
        raw_csv: do not protect spreadsheets from formulas in ``csv``, see
            `unprompt.reading.formatting.csv_row`.
    """
    if raw_csv and form == "csv":
        return _csv(answers, file, encoder, raw_csv)
    return FORMATS[form](answers, file, encoder)


def _text(answers: Iterable[Answer], file: IO[str], encoder: str) -> Iterator[Answer]:
    """Lines for people; images with an error are left out."""
    for answer in answers:
        if answer.prompt is not None:
            lines = [answer.prompt, f"· {describe_route(answer)}"]
            lines += [f"· or: {also.prompt}" for also in answer.alternatives]
            if answer.negative_prompt:
                lines.append(f"· negative: {answer.negative_prompt}")
            text = "\n".join(line.strip() for line in lines)
            file.write(f"{answer.file}\n{indent(text, '  ')}\n")
        yield answer


def describe_route(answer: Answer) -> str:
    """Say in a few words how an answer was found."""
    if answer.route == "read":
        read = f"read from the file ({answer.generator})" if answer.generator else "read"
        return read if answer.certain else f"{read}, a best guess"
    if answer.score is None:
        return f"{answer.route}"
    return f"{answer.route}, estimated cosine {answer.score:.2f}"


def _json(answers: Iterable[Answer], file: IO[str], encoder: str) -> Iterator[Answer]:
    """One JSON object a line."""
    for answer in answers:
        file.write(json.dumps(answer.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
        yield answer


def _csv(
    answers: Iterable[Answer], file: IO[str], encoder: str, raw_csv: bool = False
) -> Iterator[Answer]:
    file.write(csv_row(name for name in Answer.__slots__ if name != "embedding") + "\n")
    for answer in answers:
        values = [
            json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
            for value in answer.to_dict().values()
        ]
        file.write(csv_row(values, raw_csv) + "\n")
        yield answer


def _kaggle(answers: Iterable[Answer], file: IO[str], encoder: str) -> Iterator[Answer]:
    """The competition's ``submission.csv``: one row for each dimension of an embedding.

    An image's id is its file name without the suffix. A prompt from the file is encoded. Images
    with an error have no rows.
    """
    writer = csv.writer(file)
    writer.writerow(("imgId_eId", "val"))
    for answer in answers:
        embedding = answer.embedding
        if embedding is None and answer.prompt is not None:
            embedding = load_encoder(encoder).encode([answer.prompt])[0]
        if embedding is not None:
            unit = embedding / np.linalg.norm(embedding)
            image = Path(answer.file).stem
            writer.writerows((f"{image}_{i}", f"{value:.8f}") for i, value in enumerate(unit))
        yield answer


FORMATS: dict[str, Writer] = {"text": _text, "json": _json, "csv": _csv, "kaggle": _kaggle}
"""Functions that write answers, by the name of the format."""
