"""Write an evaluation as text, as JSON, or as a submission to the Kaggle competition."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

from unprompt.errors import UnpromptError
from unprompt.evaluating.evaluation import Evaluation
from unprompt.evaluating.text_report import print_difference, print_evaluation
from unprompt.files import format_of, output_stream
from unprompt.predicting.answer import Answer
from unprompt.predicting.output import write_answers
from unprompt.terminal import terminal_console

SUFFIXES = {".json": "json", ".txt": "text", ".csv": "kaggle"}
"""Format of an evaluation by the suffix of its file."""


def write_evaluation(
    evaluation: Evaluation,
    output: str | Path | None = None,
    form: str | None = None,
    other: Evaluation | None = None,
) -> None:
    """Write an evaluation to a file or to standard output.

    Args:
        evaluation: the evaluation.
        output: file to write, whole or not at all; standard output by default.
        form: ``text``, ``json`` or ``kaggle`` (the predicted embeddings as ``submission.csv``); by
            default the format of the suffix of ``output``.
        other: evaluation of another model on the same pairs, to compare with.

    Raises:
        TableError: the two were measured on different pairs.
        OutputError: the file cannot be written.
        UnpromptError: there is no such format.
    """
    form = format_of(output, form, SUFFIXES)
    if form not in FORMATS:
        raise UnpromptError(f"format '{form}': must be one of {', '.join(FORMATS)}")
    with output_stream(output) as file:
        FORMATS[form](evaluation, other, file)


def _text(evaluation: Evaluation, other: Evaluation | None, file: IO[str]) -> None:
    console = terminal_console(file)
    print_evaluation(evaluation, console)
    if other:
        print_evaluation(other, console)
        print_difference(evaluation, other, console)


def _json(evaluation: Evaluation, other: Evaluation | None, file: IO[str]) -> None:
    stated = evaluation.to_dict()
    if other:
        better = evaluation.better_than(other).to_dict()
        stated["difference"] = {"name": other.model.name, **better}
    file.write(json.dumps(stated, indent=2) + "\n")


def _kaggle(evaluation: Evaluation, other: Evaluation | None, file: IO[str]) -> None:
    ids = evaluation.pairs.column("id")
    rows = zip(ids, evaluation.predicted, strict=True)
    answers = (Answer(name, embedding=row) for name, row in rows)
    for _ in write_answers(answers, file, "kaggle"):
        pass


FORMATS: dict[str, Callable[[Evaluation, Evaluation | None, IO[str]], None]] = {
    "text": _text,
    "json": _json,
    "kaggle": _kaggle,
}
"""Functions that write an evaluation, by the name of the format."""
