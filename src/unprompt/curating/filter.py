"""Filters that drop pairs that are not worth training on, and count them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unprompt.curating.clip_tokens import count_tokens
from unprompt.curating.image_checks import image_sides, is_blank
from unprompt.errors import MissingExtraError, TableError, UnpromptError
from unprompt.pairs.columns import GUESSED, Columns
from unprompt.pairs.table import PairsTable, PairsWriter, load, stream
from unprompt.progress import track

if TYPE_CHECKING:
    import polars as pl

BATCH_SIZE = 65_536
SAMPLES = 5

NSFW_WORDS = tuple(
    """
    nsfw nude nudes nudity naked topless nipple nipples genitals penis vagina porn porno
    pornographic hentai erotic erotica orgasm blowjob cumshot masturbation masturbating fetish
    bdsm lewd upskirt gore gory decapitated beheaded dismembered
    """.split()  # noqa: SIM905 - easier to read than a list of strings
)
"""With ``--no-nsfw``, prompts with one of these words are dropped; compiled for this project."""

LANGUAGES = tuple(
    """
    ar bg cs da de el en es et fa fi fr he hi hu id it ja ko lt lv ms nl no pl pt ro ru sk sl sr
    sv th tl tr uk vi zh
    """.split()  # noqa: SIM905
)
"""Languages that the detector distinguishes; with more, it mistakes names and short prompts."""

SURE = 0.9
"""Least probability at which a prompt counts as another language. With a lower one, the detector
drops names of artists and short English phrases."""

_NOTHING = r"(?i)^[\s\p{P}]*(null|nan|none|n/a|undefined)?[\s\p{P}]*$"


@dataclass(frozen=True)
class Rules:
    """Conditions for keeping a pair; a bound of None is not checked.

    Attributes:
        blank: drop prompts that are empty, punctuation only, or NULL, NaN, None or N/A.
        min_words: least number of words, separated by white space.
        max_words: greatest number of words.
        min_chars: least number of characters.
        max_chars: greatest number of characters.
        max_tokens: greatest number of CLIP tokens, with start and end token; CLIP reads 77.
        ascii_only: drop prompts with characters beyond ASCII.
        language: ISO 639-1 code such as ``en``; drop prompts if the detector (py3langid) is sure
            that they are in another language. It is never sure about names or a few words.
        match: regular expression that the prompt must contain (Rust syntax).
        no_match: regular expression that the prompt must not contain.
        nsfw_words: drop prompts with one of these words, in upper or lower case.
        min_side: least length of the image's shorter side, in pixels.
        max_aspect: largest ratio of the longer to the shorter side.
        images: decode every image; drop unreadable images and images of one colour.
    """

    blank: bool = True
    min_words: int | None = None
    max_words: int | None = None
    min_chars: int | None = None
    max_chars: int | None = None
    max_tokens: int | None = None
    ascii_only: bool = False
    language: str | None = None
    match: str | None = None
    no_match: str | None = None
    nsfw_words: tuple[str, ...] = ()
    min_side: int | None = None
    max_aspect: float | None = None
    images: bool = False


@dataclass
class Dropped:
    """Rows that one filter dropped: their number, and (row from 1, content) of the first few."""

    count: int = 0
    samples: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class FilterReport:
    """Rows kept, and rows dropped by each filter; a row counts for the first filter that drops it.

    Attributes:
        rows: rows read.
        kept: rows that passed every filter.
        dropped: dropped rows by filter, in the order of the filters.
    """

    rows: int = 0
    kept: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.kept:,} of {self.rows:,} rows kept"]
        for name, found in self.dropped.items():
            lines.append(f"{name}: {found.count:,} dropped")
            lines += [f"    row {row:,}: {text[:100]!r}" for row, text in found.samples]
        return "\n".join(lines)


Filter = Callable[[PairsTable, np.ndarray, "pl.Series"], np.ndarray]
"""Takes a table, n of its rows (int64 of shape (n,)) and their prompts; returns which rows to drop,
bool of shape (n,)."""


def filter_pairs(
    source: str | Path,
    output: str | Path | None = None,
    rules: Rules | None = None,
    named: Columns = GUESSED,
) -> FilterReport:
    """Copy the rows of a table that satisfy the rules, batch by batch.

    Args:
        source: a pairs table; a null prompt counts as blank.
        output: the table to write, or None to count only.
        rules: the conditions; by default only that the prompt is not blank.
        named: as in `unprompt.pairs.table.load`.

    Raises:
        UnpromptError: a rule is wrong, such as a broken regular expression.
        TableError: see `stream`.
        OutputError: the output cannot be written; an old file is unchanged.
        MissingExtraError: polars, or a package that a rule needs, is not installed.
    """
    filters = make_filters(rules or Rules())
    report = FilterReport(dropped={name: Dropped() for name in filters})
    batches = stream(source, batch_size=BATCH_SIZE, blank_prompts=True, named=named)
    first = next(batches, None)
    if first is None:
        first = load(source, named=named)
    writer = PairsWriter(output, first.root) if output is not None else nullcontext()
    with writer as open_writer:
        for table in track(chain([first], batches), "Filtering"):
            kept = table.where(_apply(filters, table, report))
            if open_writer is not None and len(kept):
                open_writer.write(kept)
    return report


def make_filters(rules: Rules) -> dict[str, Filter]:
    """The filters of the rules by name, fast ones first."""
    return dict(_filters(rules))


def _filters(rules: Rules) -> Iterator[tuple[str, Filter]]:
    if importlib.util.find_spec("polars") is None:
        raise MissingExtraError("polars", "data")
    if rules.blank:
        yield "blank prompt", _prompts(lambda p: p.str.contains(_NOTHING))
    yield from _bounds("characters", rules.min_chars, rules.max_chars, lambda p: p.str.len_chars())
    yield from _bounds(
        "words", rules.min_words, rules.max_words, lambda p: p.str.count_matches(r"\S+")
    )
    if rules.ascii_only:
        yield "characters beyond ASCII", _prompts(lambda p: p.str.contains(r"[^\x00-\x7F]"))
    if (wanted := rules.match) is not None:
        _check_pattern(wanted)
        yield f"does not match {wanted}", _prompts(lambda p: ~p.str.contains(wanted))
    if (unwanted := rules.no_match) is not None:
        _check_pattern(unwanted)
        yield f"matches {unwanted}", _prompts(lambda p: p.str.contains(unwanted))
    if rules.nsfw_words:
        words = rf"(?i)\b({'|'.join(map(re.escape, rules.nsfw_words))})\b"
        yield "NSFW word", _prompts(lambda p: p.str.contains(words))
    if rules.max_tokens is not None:
        most = rules.max_tokens
        yield (
            f"more than {most} CLIP tokens",
            lambda table, rows, prompts: count_tokens(prompts.to_list()) > most,
        )
    if rules.language:
        yield f"not in language {rules.language}", _language(rules.language)
    yield from _image_filters(rules)


def _image_filters(rules: Rules) -> Iterator[tuple[str, Filter]]:
    if rules.images:
        yield (
            "image cannot be decoded",
            lambda table, rows, prompts: _each(table, rows, _undecodable),
        )
        yield "image of one colour", lambda table, rows, prompts: _each(table, rows, _one_colour)
    if rules.min_side is not None:
        side = rules.min_side
        yield (
            f"image side under {side} pixels",
            lambda table, rows, prompts: image_sides(table, rows).min(1) < side,
        )
    if rules.max_aspect is not None:
        aspect = rules.max_aspect
        if not aspect >= 1:
            raise UnpromptError(
                f"max_aspect divides the longer side by the shorter; it must be at least 1, not "
                f"{aspect}"
            )

        def too_long(table: PairsTable, rows: np.ndarray, prompts: pl.Series) -> np.ndarray:
            sides = image_sides(table, rows)
            return sides.max(1) > aspect * sides.min(1)

        yield f"image sides further apart than {aspect}:1", too_long


def _apply(filters: dict[str, Filter], table: PairsTable, report: FilterReport) -> np.ndarray:
    """Apply the filters one after the other; true for kept rows, bool of shape (n,)."""
    import polars as pl

    left = np.arange(len(table))
    prompts = pl.Series("prompt", table.data.column("prompt"))
    for name, drops in filters.items():
        dropped = drops(table, left, prompts)
        found = report.dropped[name]
        found.count += int(dropped.sum())
        for row in left[dropped][: SAMPLES - len(found.samples)]:
            text = table.data.column("file" if name.startswith("image") else "prompt")[int(row)]
            found.samples.append((table.first_row + int(row), text.as_py()))
        left, prompts = left[~dropped], prompts.filter(~dropped)
    report.rows += len(table)
    report.kept += len(left)
    mask = np.zeros(len(table), bool)
    mask[left] = True
    return mask


def _each(
    table: PairsTable, rows: np.ndarray, test: Callable[[PairsTable, int], bool]
) -> np.ndarray:
    return np.array([test(table, row) for row in rows.tolist()], dtype=bool)


def _undecodable(table: PairsTable, row: int) -> bool:
    try:
        table.open_image(row)
    except TableError:
        return True
    return False


def _one_colour(table: PairsTable, row: int) -> bool:
    return is_blank(table.open_image(row))


def _language(code: str) -> Filter:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtraError("py3langid", "data") from error
    if code not in LANGUAGES:
        raise UnpromptError(f"unknown language '{code}'; choose one of {', '.join(LANGUAGES)}")
    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    detector.set_languages(list(LANGUAGES))

    def foreign(table: PairsTable, rows: np.ndarray, prompts: pl.Series) -> np.ndarray:
        found = [detector.classify(prompt) for prompt in prompts.to_list()]
        sure = [language != code and share >= SURE for language, share in found]
        return np.array(sure, dtype=bool)

    return foreign


def _prompts(test: Callable[[pl.Series], pl.Series]) -> Filter:
    """A filter that looks only at prompts."""
    return lambda table, rows, prompts: test(prompts).to_numpy()


def _bounds(
    what: str, least: int | None, most: int | None, measure: Callable[[pl.Series], pl.Series]
) -> Iterator[tuple[str, Filter]]:
    if least is not None and most is not None and least > most:
        raise UnpromptError(f"no prompt has at least {least} and at most {most} {what}; change one")
    if least is not None:
        yield f"fewer than {least} {what}", _prompts(lambda p: measure(p) < least)
    if most is not None:
        yield f"more than {most} {what}", _prompts(lambda p: measure(p) > most)


def _check_pattern(pattern: str) -> None:
    import polars as pl

    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        raise UnpromptError(f"'{pattern}' is not a regular expression: {error}") from error
