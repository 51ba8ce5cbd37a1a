"""Near-duplicate removal from file to file, as `unprompt dedup` does it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unprompt.curating.dedup.dedup_report import write_report
from unprompt.curating.dedup.deduplication import Deduplication, deduplicate
from unprompt.curating.encode import with_embeddings
from unprompt.curating.image_checks import HASH_BITS, deduplicate_images
from unprompt.curating.leakage import find_overlap
from unprompt.encoding import DEFAULT_ENCODER
from unprompt.errors import UnpromptError
from unprompt.pairs.prompt_file import is_table, prompts_of, write_prompts
from unprompt.pairs.table import PairsTable, load, save

REPORTED_BELOW = 0.15
"""How far below the threshold a search with a report goes, so that the page offers a choice."""


@dataclass(frozen=True)
class Dedup:
    """How to remove near-duplicates; see the options of `unprompt dedup`."""

    threshold: float = 0.9
    keep: str = "first"
    against: Path | None = None
    distance: int | None = None
    mark: bool = False
    report: Path | None = None
    approximate: bool = False
    device: str = "auto"
    encoder: str | None = None


@dataclass
class Done:
    """What came of it: lines to tell, and items that failed."""

    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def run_dedup(source: Path, output: Path | None, how: Dedup) -> Done:
    """Remove near-duplicates from a table or a text file, and write what is kept.

    Args:
        source: a pairs table, or a text file with one prompt a line.
        output: what to write, of the same kind; None for the counts alone.
        how: threshold, rule and the rest.

    Raises:
        UnpromptError: options that exclude each other, or as `deduplicate`.
    """
    is_text = not is_table(source)
    _check(source, output, how, is_text)
    table = _read(source)
    done = Done()
    if how.distance is not None:
        pictures = deduplicate_images(table, how.distance, how.keep)
        done.failed = list(pictures.failed.values())
        done.lines = _told(pictures.found, f"{how.distance} of {HASH_BITS} bits")
        group = np.full(len(table), -1)
        group[pictures.rows] = pictures.rows[pictures.found.group_of]
        kept = pictures.kept
    elif how.against is not None:
        table = embedded(table, how.encoder)
        other = embedded(_read(how.against), how.encoder)
        overlap = find_overlap(table, other, how.threshold, device=how.device)
        kept, group = overlap.kept, None
        done.lines = [
            f"{len(overlap.removed):,} of {len(table):,} rows are near-duplicate to "
            f"{how.against} at {how.threshold}; {len(kept):,} kept"
        ]
    else:
        table = embedded(table, how.encoder)
        low = how.threshold if how.report is None else max(how.threshold - REPORTED_BELOW, 0.05)
        searched = deduplicate(
            table,
            min(low, how.threshold),
            how.keep,
            device=how.device,
            approximate=how.approximate,
        )
        found = searched.rethreshold(how.threshold)
        if how.report is not None:
            write_report(found, how.report)
        done.lines = _told(found, f"cosine {how.threshold}")
        kept, group = found.kept, found.group_of
    if output is not None:
        _write(table, kept, group, output, how, is_text)
    return done


def embedded(table: PairsTable, encoder: str | None) -> PairsTable:
    """The table with embeddings, computed where it has none."""
    return with_embeddings(table, encoder or DEFAULT_ENCODER)


def _check(source: Path, output: Path | None, how: Dedup, is_text: bool) -> None:
    if how.against is not None and (how.distance is not None or how.report or how.mark):
        raise UnpromptError("--against compares prompts; leave out --images, --report and --mark")
    if how.distance is not None and (how.report or how.approximate):
        raise UnpromptError("--report and --approximate are for prompts; leave out --images")
    if is_text and (how.distance is not None or how.mark):
        raise UnpromptError(f"{source} has no images and no columns; give a pairs table")
    if output is not None and (output.suffix == ".txt") != is_text:
        wanted = "prompts: a text file (.txt)" if is_text else "a pairs table: one (.parquet)"
        raise UnpromptError(f"{output}: the output must be as the input is, which is {wanted}")


def _read(source: Path) -> PairsTable:
    if is_table(source):
        return load(source)
    import pyarrow as pa

    prompts = prompts_of(source)
    numbers = [str(number) for number in range(1, len(prompts) + 1)]
    columns = {"id": numbers, "file": numbers, "prompt": prompts}
    return PairsTable(
        pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}),
        source.parent,
        str(source),
    )


def _write(
    table: PairsTable,
    kept: np.ndarray,
    group: np.ndarray | None,
    output: Path,
    how: Dedup,
    is_text: bool,
) -> None:
    if is_text:
        prompts = table.prompts
        write_prompts((prompts[row] for row in kept), output)
        return
    if group is not None:
        values = [None if number < 0 else number for number in group.tolist()]
        table = table.with_columns({"group": values})
    save(table if how.mark else table.take(kept), output)


def _told(found: Deduplication, nearness: str) -> list[str]:
    counts = found.summary()
    line = (
        f"{counts['kept']:,} of {counts['rows']:,} rows kept at {nearness}, by {found.keep}: "
        f"{counts['groups']:,} groups, the largest of {counts['largest_group']:,} rows; "
        f"{counts['distinct']:,} distinct, of which {counts['pairs']:,} pairs are near"
    )
    if found.recall is None:
        return [line]
    return [line, f"approximate: {found.recall:.2%} of the pairs found, by a sample"]
