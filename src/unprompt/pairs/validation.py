"""Checks beyond the schema: unique ids, non-empty prompts, known splits, existing images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from unprompt.errors import TableError
from unprompt.pairs.schema import SPLITS
from unprompt.pairs.table import PairsTable

_MAX_REPORTED = 20


def validate(table: PairsTable, images: str = "exist") -> None:
    """Check ids, prompts, paths, splits and images of a table.

    Args:
        table: the table to check.
        images: ``none``, ``exist`` (each image exists) or ``decode`` (and can be decoded).

    Raises:
        TableError: there are problems; the message states their number and the first 20.
    """
    if problems := list(find_problems(table, images)):
        raise TableError("\n".join(reported(table.name, problems)))


def reported(name: str, problems: list[str]) -> list[str]:
    """Lines that state the number of problems of the table ``name``, and the first 20."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    lines = [f"{name}: {count}"]
    lines += [f"  {problem}" for problem in problems[:_MAX_REPORTED]]
    more = len(problems) - _MAX_REPORTED
    return [*lines, f"  and {more:,} more"] if more > 0 else lines


def find_problems(table: PairsTable, images: str = "exist") -> Iterator[str]:
    """Yield each problem of a table as one line with its row; see `validate`."""
    if images not in ("none", "exist", "decode"):
        raise ValueError(f"images must be none, exist or decode, not '{images}'")
    ids = table.column("id")
    first_of: dict[str, int] = {}
    repeated = {name for name, count in Counter(ids).items() if count > 1}
    columns = zip(ids, table.prompts, table.column("split"), strict=True)
    for row, (name, prompt, split) in enumerate(columns):
        where = f"row {table.first_row + row}"
        if name in repeated and name in first_of:
            yield f"{where}: id '{name}' is also in row {table.first_row + first_of[name]}"
        first_of.setdefault(name, row)
        if not name:
            yield f"{where}: the id is empty"
        if not prompt.strip():
            yield f"{where}: the prompt is empty"
        if split is not None and split not in SPLITS:
            yield f"{where}: split '{split}' is not one of {', '.join(SPLITS)}"
        if images != "none":
            try:
                table.open_image(row) if images == "decode" else table.read_bytes(row)
            except TableError as error:
                yield str(error).removeprefix(f"{table.name}, ")
