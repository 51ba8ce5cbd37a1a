"""`unprompt dedup`: read a table or a file of prompts, remove near-duplicates, write the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from unprompt.curating.dedup.dedup_report import write_report
from unprompt.curating.dedup.deduplication import Deduplication, deduplicate
from unprompt.curating.encode_file import with_embeddings
from unprompt.curating.image_checks import HASH_BITS, deduplicate_images
from unprompt.curating.leakage import find_overlap
from unprompt.encoding import DEFAULT_ENCODER
from unprompt.errors import UnpromptError
from unprompt.pairs.columns import GUESSED, Columns
from unprompt.pairs.prompt_file import is_table, prompts_of, write_prompts
from unprompt.pairs.table import PairsTable, load, save

REPORTED_BELOW = 0.15
"""For a report, the search threshold is this much lower, so that the page shows alternatives."""


@dataclass
class DedupSummary:
    """What `dedup_file` did.

    Attributes:
        lines: text that states how many rows were kept and why.
        failed: one line for each image that could not be read.
    """

    lines: list[str]
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def dedup_file(
    source: str | Path,
    output: str | Path | None,
    threshold: float = 0.9,
    keep: str = "first",
    *,
    against: str | Path | None = None,
    distance: int | None = None,
    mark: bool = False,
    report: str | Path | None = None,
    approximate: bool = False,
    device: str | None = None,
    encoder: str = DEFAULT_ENCODER,
    named: Columns = GUESSED,
) -> DedupSummary:
    """Remove near-duplicates from a table or a file of prompts, and write the rows that are kept.

    Args:
        source: a pairs table, or any file that `unprompt.pairs.prompt_file.prompts_of` reads.
        output: file to write: ``.parquet`` for a table, ``.txt`` for prompts; None to count only.
        threshold: cosine from which two prompts are near-duplicates.
        keep: ``first``, ``longest`` or ``central``, as in `deduplicate`.
        against: instead remove near-duplicates of the prompts in this file.
        distance: compare images instead of prompts; bits, of 64, in which hashes may differ.
        mark: keep every row of a table, and only set its column ``group``.
        report: HTML page to write, which helps to choose the threshold.
        approximate: as in `deduplicate`.
        device: as in `deduplicate`.
        encoder: hub id or path; encodes the prompts that have no embeddings yet.
        named: the columns of ``source``, as in `unprompt.pairs.table.load`.

    Raises:
        UnpromptError: options exclude each other; see also `deduplicate`.
        TableError: a file cannot be read.
        OutputError: a file cannot be written.
    """
    source = Path(source)
    as_table = is_table(source, named)
    if against is not None and (distance is not None or report or mark):
        raise UnpromptError("--against compares prompts; leave out --images, --report and --mark")
    if distance is not None and (report or approximate):
        raise UnpromptError("--report and --approximate are for prompts; leave out --images")
    if not as_table and (distance is not None or mark):
        raise UnpromptError(f"{source} has no images and no columns; give a pairs table")
    if output is not None and (Path(output).suffix == ".txt") == as_table:
        wanted = "a table, so name a .parquet" if as_table else "prompts, so name a .txt"
        raise UnpromptError(f"{output}: the input is {wanted} file")

    table = _load(source, named)
    failed: list[str] = []
    group = None
    if distance is not None:
        images = deduplicate_images(table, distance, keep)
        failed = list(images.failed.values())
        lines = _summary(images.found, f"{distance} of {HASH_BITS} bits", "images")
        group = np.full(len(table), -1)
        group[images.rows] = images.rows[images.found.group_of]
        kept = images.kept
    elif against is not None:
        table = with_embeddings(table, encoder)
        other = with_embeddings(_load(Path(against)), encoder)
        overlap = find_overlap(table, other, threshold, device=device)
        kept = overlap.kept
        lines = [
            f"{len(overlap.removed):,} of {len(table):,} rows have near-duplicates in {against} at "
            f"cosine {threshold}; {len(kept):,} kept"
        ]
    else:
        lowest = threshold if report is None else max(threshold - REPORTED_BELOW, 0.05)
        found = deduplicate(
            with_embeddings(table, encoder),
            min(lowest, threshold),
            keep,
            device=device,
            approximate=approximate,
        ).rethreshold(threshold)
        if report is not None:
            write_report(found, report)
        lines = _summary(found, f"cosine {threshold}", "prompts")
        kept, group = found.kept, found.group_of

    if output is not None and not as_table:
        prompts = table.prompts
        write_prompts((prompts[row] for row in kept), output)
    elif output is not None:
        if group is not None:
            values = [None if number < 0 else number for number in group.tolist()]
            table = table.with_columns({"group": values})
        save(table if mark else table.take(kept), output)
    return DedupSummary(lines, failed)


def _load(source: Path, named: Columns = GUESSED) -> PairsTable:
    """A table, or a table of the prompts of a file, without images."""
    if is_table(source, named):
        return load(source, named=named)
    prompts = prompts_of(source, named)
    numbers = [str(number) for number in range(1, len(prompts) + 1)]
    columns = {"id": numbers, "file": numbers, "prompt": prompts}
    data = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return PairsTable(data, source.parent, str(source))


def _summary(found: Deduplication, nearness: str, things: str) -> list[str]:
    counts = found.summary()
    line = (
        f"{counts['kept']:,} of {counts['rows']:,} rows kept at {nearness}, by {found.keep}: "
        f"{counts['groups']:,} groups, the largest of {counts['largest_group']:,} rows; "
        f"{counts['distinct']:,} distinct {things}, {counts['pairs']:,} near-duplicate pairs"
    )
    if found.recall is None:
        return [line]
    return [line, f"approximate: found {found.recall:.2%} of the pairs of a sample"]
