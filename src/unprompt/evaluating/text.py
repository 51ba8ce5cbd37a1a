"""An evaluation as a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unprompt.evaluating.evaluation import Evaluation
from unprompt.evaluating.metrics import Score


def show(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the model beside its baselines, over all pairs and per source."""
    console = console or Console()
    results = [evaluation.model, *evaluation.baselines]
    sources = list(evaluation.model.per_source)
    where = evaluation.split or "all pairs"
    table = Table(
        title=escape(f"{evaluation.table} · {where} · mean cosine [95 % interval]"),
        title_justify="left",
    )
    table.add_column("pairs of")
    table.add_column("n", justify="right")
    for result in results:
        table.add_column(escape(result.name), justify="right", overflow="fold")
    table.add_row("all", str(evaluation.model.overall.count), *(_cell(r.overall) for r in results))
    if len(sources) > 1:
        table.add_section()
        for source in sources:
            count = evaluation.model.per_source[source].count
            cells = (_cell(result.per_source[source]) for result in results)
            table.add_row(escape(source), str(count), *cells)
    console.print(table)
    rate = f"{evaluation.images_per_second:.0f} images/s"
    failed = f", {len(evaluation.failures)} could not be decoded" if evaluation.failures else ""
    console.print(f"{rate}{failed}", highlight=False)


def _cell(score: Score) -> str:
    return f"{score.mean:.3f}\n[dim]{score.low:.3f}–{score.high:.3f}[/dim]"
