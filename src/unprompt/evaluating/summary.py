"""An evaluation as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unprompt.evaluating.evaluation import Evaluation
from unprompt.evaluating.metrics import Score


def show(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the model beside its baselines, over all pairs and for parts of them."""
    console = console or Console()
    results = [evaluation.model, *evaluation.baselines]
    where = evaluation.split or "all pairs"
    table = Table(
        title=escape(f"{evaluation.model.name} on {evaluation.table} ({where}): mean cosine"),
        caption="with the 95 % interval, by bootstrap over groups of near-duplicate prompts",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("pairs")
    table.add_column("n", justify="right")
    table.add_column("model", justify="right")
    for baseline in evaluation.baselines:
        table.add_column(escape(baseline.name), justify="right")
    table.add_row("all", str(evaluation.model.overall.count), *(_cell(r.overall) for r in results))
    parts = [
        [result.per_source for result in results],
        [{f"{k} words": v for k, v in result.per_length.items()} for result in results],
    ]
    for first, *others in parts:
        if len(first) == 1:
            continue
        table.add_section()
        for name, score in first.items():
            cells = (_cell(scores[name]) for scores in (first, *others))
            table.add_row(escape(name), str(score.count), *cells)
    console.print(table)
    for line in summary(evaluation):
        console.print(line, highlight=False, markup=False)


def show_difference(evaluation: Evaluation, other: Evaluation, console: Console) -> None:
    """Print how much better the one is than the other, and whether that is more than chance."""
    score = evaluation.better_than(other)
    verdict = "no difference shown" if score.low <= 0 <= score.high else "a difference"
    console.print(
        f"{evaluation.model.name} less {other.model.name}: {score.mean:+.4f} "
        f"[{score.low:+.4f}, {score.high:+.4f}] on {score.count} pairs, by paired bootstrap: "
        f"{verdict}",
        highlight=False,
        markup=False,
    )


def summary(evaluation: Evaluation) -> Iterator[str]:
    """What the table does not hold, a sentence a line."""
    result = evaluation.model
    yield "percentiles of the cosine: " + ", ".join(
        f"{percent} % below {value:.3f}" for percent, value in result.percentiles.items()
    )
    distinct = len(set(evaluation.pairs.prompts))
    yield f"the true prompt among the {distinct:,} here: " + ", ".join(
        f"{share:.1%} in the first {k}" for k, share in result.recall.items()
    )
    if words := evaluation.words:
        yield (
            f"in words: cosine {words.cosine}, {words.exact:.1%} to the letter, "
            f"BLEU {words.bleu:.1f}, chrF {words.chrf:.1f}, distinct-1/2/3 "
            + "/".join(f"{share:.2f}" for share in words.distinct)
        )
        if words.reliability:
            worst = max(words.reliability, key=lambda part: abs(part.estimated - part.actual))
            yield (
                f"estimated scores, in {len(words.reliability)} bins: the furthest from the truth "
                f"says {worst.estimated:.3f} where it is {worst.actual:.3f} ({worst.count} answers)"
            )
    memory = f", {evaluation.peak_memory:,.0f} MB at the peak" if evaluation.peak_memory else ""
    failed = f"; {len(evaluation.failures)} could not be decoded" if evaluation.failures else ""
    yield f"{evaluation.images_per_second:.0f} images/s{memory}{failed}"


def _cell(score: Score) -> str:
    return f"{score.mean:.3f}\n[dim]{score.low:.3f}–{score.high:.3f}[/dim]"
