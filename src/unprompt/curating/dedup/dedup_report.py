"""An HTML page that helps to choose a threshold: nearest cosines, rows kept, largest groups."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from unprompt.curating.dedup.deduplication import Deduplication
from unprompt.errors import UnpromptError
from unprompt.files import atomic_open

_SAMPLE = 2000
_GROUPS = 40
_MEMBERS = 12
_LETTERS = 600
"""Characters shown of a prompt."""
_WIDTH, _HEIGHT = 640, 180

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
svg { max-width: 100%; height: auto } details { margin: .4rem 0 }
.kept { font-weight: 600 } .near { color: #555 } ol { margin: .2rem 0 }
summary { cursor: pointer } small { white-space: nowrap; font-weight: 400; color: #777 }
"""


def write_report(
    found: Deduplication, path: str | Path, prompts: Sequence[str] | None = None
) -> None:
    """Write an HTML file, without scripts and links, that shows a search for near-duplicates.

    Args:
        found: the search; its ``searched`` is the lowest threshold on the page.
        path: the file to write.
        prompts: texts to show, by default those of ``found``.

    Raises:
        UnpromptError: there are no prompts to show.
        OutputError: the file cannot be written.
    """
    prompts = prompts if prompts is not None else found.prompts
    if prompts is None:
        raise UnpromptError("the report shows prompts; pass prompts=")
    nearest = nearest_cosines(found)
    steps = [round(step, 4) for step in np.arange(found.searched, 0.995, 0.02).tolist()]
    thresholds = sorted({found.searched, found.threshold, *steps[1:], 1.0})
    kept = [(threshold, len(found.rethreshold(threshold).kept)) for threshold in thresholds]
    counts = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{_number(value)}</td></tr>"
        for name, value in found.summary().items()
    )
    rows = "".join(
        f"<tr><td>{threshold:.2f}</td><td>{count:,}</td><td>{len(found) - count:,}</td></tr>"
        for threshold, count in kept
    )
    with atomic_open(path) as file:
        file.write(
            f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Near-duplicate prompts</title>
<style>{_STYLE}</style>
<h1>Near-duplicate prompts</h1>
<table>{counts}</table>
<h2>Cosine to the nearest other prompt</h2>
<p>Of {len(nearest):,} prompts; the red line is the threshold.</p>
{_histogram(nearest, found.threshold)}
<h2>What each threshold keeps</h2>
{_curve(kept, found.threshold, len(found))}
<details><summary>as a table</summary>
<table><tr><th>threshold</th><th>kept</th><th>removed</th></tr>{rows}</table></details>
<h2>The largest groups at {found.threshold}</h2>
{_groups(found, prompts)}
</html>
"""
        )


def nearest_cosines(found: Deduplication, sample: int = _SAMPLE) -> np.ndarray:
    """Cosine of each item of a sample to its nearest other item, float32 of shape (k,)."""
    vectors = found.items.vectors
    if len(vectors) < 2:
        return np.empty(0, np.float32)
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(sample, len(vectors))).astype(int))
    best = np.full(len(rows), -1, np.float32)
    for start in range(0, len(vectors), 4096):
        scores = vectors[rows] @ vectors[start : start + 4096].T
        own = (rows >= start) & (rows < start + 4096)
        scores[own, rows[own] - start] = -1
        np.maximum(best, scores.max(1), out=best)
    return best


def _histogram(values: np.ndarray, threshold: float) -> str:
    low = min(0.0, float(values.min(initial=0.0)))
    counts, edges = np.histogram(values, bins=50, range=(low, 1.0))
    top = max(int(counts.max(initial=0)), 1)

    def across(cosine: float) -> float:
        return (cosine - low) / (1 - low) * _WIDTH

    bars = "".join(
        f'<rect x="{across(edge):.1f}" y="{_HEIGHT - count / top * _HEIGHT:.1f}" '
        f'width="{_WIDTH / 50 - 1:.1f}" height="{count / top * _HEIGHT:.1f}" fill="#4a78b0">'
        f"<title>{edge:.2f} to {edge + (1 - low) / 50:.2f}: {count}</title></rect>"
        for edge, count in zip(edges[:-1], counts, strict=True)
    )
    ticks = [(across(tick), f"{tick:.1f}") for tick in np.arange(0, 1.01, 0.2)]
    return _svg(bars, ticks, across(threshold), top)


def _curve(kept: list[tuple[float, int]], threshold: float, rows: int) -> str:
    first = kept[0][0]
    span = max(1 - first, 1e-9)

    def across(cosine: float) -> float:
        return (cosine - first) / span * _WIDTH

    points = " ".join(f"{across(t):.1f},{_HEIGHT - c / rows * _HEIGHT:.1f}" for t, c in kept)
    line = f'<polyline points="{points}" fill="none" stroke="#4a78b0" stroke-width="2"/>'
    ticks = [(across(t), f"{t:.2f}") for t in np.linspace(first, 1, 7).tolist()]
    return _svg(line, ticks, across(threshold), rows)


def _svg(body: str, ticks: list[tuple[float, str]], marked: float, top: int) -> str:
    """``body`` with axes: ticks below, 0 to ``top`` at the left, and a line at ``marked``."""
    labels = "".join(
        f'<text x="{x:.1f}" y="{_HEIGHT + 16}" font-size="12" text-anchor="middle">{text}</text>'
        for x, text in ticks
    )
    labels += "".join(
        f'<text x="-6" y="{y}" font-size="12" text-anchor="end">{count:,}</text>'
        for y, count in ((10, top), (_HEIGHT, 0))
    )
    line = f'<line x1="{marked:.1f}" x2="{marked:.1f}" y1="0" y2="{_HEIGHT}" stroke="#b03030"/>'
    frame = f'<path d="M0 0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="#888"/>'
    return (
        f'<svg viewBox="-80 -5 {_WIDTH + 100} {_HEIGHT + 30}" width="{_WIDTH + 100}" role="img">'
        f"{body}{frame}{line}{labels}</svg>"
    )


def _groups(found: Deduplication, prompts: Sequence[str]) -> str:
    if not found.groups:
        return "<p>No two prompts are near-duplicates.</p>"
    parts = []
    for number, rows in enumerate(found.groups[:_GROUPS]):
        members = "".join(_member(found, prompts, row) for row in rows[:_MEMBERS].tolist())
        more = f"<p>and {len(rows) - _MEMBERS:,} more</p>" if len(rows) > _MEMBERS else ""
        opened = " open" if number < 5 else ""
        parts.append(
            f"<details{opened}><summary>{len(rows):,} rows: {_text(prompts[rows[0]], 80)}"
            f"</summary><ol>{members}</ol>{more}</details>"
        )
    legend = "<p>Bold: kept. The number is the cosine to the kept prompt that replaces it.</p>"
    return legend + "".join(parts)


def _member(found: Deduplication, prompts: Sequence[str], row: int) -> str:
    text = _text(prompts[row], _LETTERS)
    if found.representative_of[row] == row:
        return f'<li class="kept">{text} <small>row {row + 1}</small></li>'
    near = f"row {row + 1}, {found.similarity[row]:.3f}"
    return f'<li class="near">{text} <small>{near}</small></li>'


def _text(prompt: str, letters: int) -> str:
    """The start of a prompt as HTML; ``<bdi>`` isolates its writing direction."""
    cut = prompt if len(prompt) <= letters else prompt[:letters] + "…"
    return f"<bdi>{escape(cut)}</bdi>"


def _number(value: float | int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(str(value))
