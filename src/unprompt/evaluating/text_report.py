"""An evaluation as text: a table in the terminal and a summary in sentences."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unprompt.evaluating.evaluation import Evaluation
from unprompt.evaluating.metrics import Score, furthest_bin
from unprompt.terminal import terminal_console


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the scores of model and baselines, over all pairs and for subsets of them."""
    console = console or terminal_console(sys.stdout)
    results = [evaluation.model, *evaluation.baselines]
    table = Table(
        title=escape(f"{evaluation.title}: mean cosine"),
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
    subsets = [
        [result.per_source for result in results],
        [{f"{k} words": v for k, v in result.per_length.items()} for result in results],
    ]
    for first, *others in subsets:
        if len(first) == 1:  # it would repeat the row of all pairs
            continue
        table.add_section()
        for name, score in first.items():
            cells = (_cell(scores[name]) for scores in (first, *others))
            table.add_row(escape(name), str(score.count), *cells)
    console.print(table)
    for line in summary_lines(evaluation):
        console.print(line, highlight=False, markup=False)


def print_difference(evaluation: Evaluation, other: Evaluation, console: Console) -> None:
    """Print how much better a model is than another, and whether chance can explain it."""
    score = evaluation.better_than(other)
    verdict = "no difference shown" if score.low <= 0 <= score.high else "a difference"
    console.print(
        f"{evaluation.model.name} less {other.model.name}: {score.mean:+.4f} "
        f"[{score.low:+.4f}, {score.high:+.4f}] on {score.count} pairs, by paired bootstrap: "
        f"{verdict}",
        highlight=False,
        markup=False,
    )


def summary_lines(evaluation: Evaluation) -> Iterator[str]:
    """Yield lines with the results that are not in the table."""
    result = evaluation.model
    yield "percentiles of the cosine: " + ", ".join(
        f"{percent} % below {value:.3f}" for percent, value in result.percentiles.items()
    )
    distinct = len(set(evaluation.pairs.prompts))
    yield f"the true prompt among the {distinct:,} here: " + ", ".join(
        f"{share:.1%} in the first {k}" for k, share in result.recall.items()
    )
    if texts := evaluation.text_scores:
        yield (
            f"answers in words: cosine {texts.cosine}, {texts.exact:.1%} equal to the prompt, "
            f"BLEU {texts.bleu:.1f}, chrF {texts.chrf:.1f}, distinct-1/2/3 "
            + "/".join(f"{share:.2f}" for share in texts.distinct)
        )
        if texts.reliability:
            worst = furthest_bin(texts.reliability)
            yield (
                f"estimated scores, in {len(texts.reliability)} bins: the furthest from the truth "
                f"is {worst.estimated:.3f} instead of {worst.actual:.3f} ({worst.count} answers)"
            )
    memory = f", {evaluation.peak_memory:,.0f} MB at the peak" if evaluation.peak_memory else ""
    failed = f"; {len(evaluation.failures)} could not be decoded" if evaluation.failures else ""
    yield f"{evaluation.images_per_second:.0f} images/s{memory}{failed}"


def _cell(score: Score) -> str:
    return f"{score.mean:.3f}\n[dim]{score.low:.3f}–{score.high:.3f}[/dim]"
