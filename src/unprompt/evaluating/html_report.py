"""Write an evaluation as one HTML page with images, which needs no other file and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

from unprompt.evaluating.evaluation import Evaluation, Result
from unprompt.evaluating.metrics import Bin, Score, furthest_bin
from unprompt.evaluating.text_report import summary_lines
from unprompt.files import atomic_open

_THUMBNAIL = 224
_BINS = 40


def write_report(evaluation: Evaluation, path: str | Path, images: int = 8) -> None:
    """Write the page: scores of model and baselines, a histogram of the cosines, and images.

    If the answers were measured as texts, the page also shows them under the images, and compares
    the estimated scores with the actual ones.

    Args:
        evaluation: the evaluation.
        path: the HTML file.
        images: number of pairs to show of the best, of the middle and of the worst.

    Raises:
        OutputError: the file cannot be written.
    """
    title = evaluation.title
    style = resources.files(__package__).joinpath("html_report.css").read_text(encoding="utf-8")
    sections = [
        f"<h1>{escape(title)}</h1>",
        "<p>Mean cosine between predicted and true prompt embedding, with the bootstrap 95 % "
        "interval over groups of near-duplicate prompts. "
        f"{evaluation.model.overall.count} pairs.</p>",
        *_scores(evaluation),
        "<ul>",
        *(f"<li>{escape(line)}</li>" for line in summary_lines(evaluation)),
        "</ul>",
        "<h2>Distribution of the cosines</h2>",
        _histogram([evaluation.model, *evaluation.baselines[:1]]),
        *_reliability(evaluation),
        *_gallery(evaluation, images),
        *_failures(evaluation.failures),
    ]
    with atomic_open(path) as file:
        file.write(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{style}</style></head><body>\n"
        )
        file.writelines(f"{section}\n" for section in sections)
        file.write("</body></html>\n")


def _scores(evaluation: Evaluation) -> Iterator[str]:
    results = [evaluation.model, *evaluation.baselines]
    yield "<table><thead><tr><th>pairs of</th><th>n</th>"
    yield from (f"<th>{escape(result.name)}</th>" for result in results)
    yield "</tr></thead><tbody>"
    count = evaluation.model.overall.count
    yield from _row("all", count, [result.overall for result in results])
    sources, lengths = evaluation.model.per_source, evaluation.model.per_length
    # A single source or length would repeat the row of all pairs.
    for source, score in sources.items() if len(sources) > 1 else ():
        yield from _row(source, score.count, [result.per_source[source] for result in results])
    for length, score in lengths.items() if len(lengths) > 1 else ():
        name = f"prompts of {length} words"
        yield from _row(name, score.count, [result.per_length[length] for result in results])
    yield "</tbody></table>"


def _row(name: str, count: int, scores: Iterable[Score]) -> Iterator[str]:
    yield f"<tr><th>{escape(name)}</th><td>{count}</td>"
    for score in scores:
        yield f"<td>{score.mean:.3f} <small>{score.low:.3f} to {score.high:.3f}</small></td>"
    yield "</tr>"


def _histogram(results: list[Result]) -> str:
    """An SVG histogram of the cosines, with one line for each result."""
    values = np.concatenate([result.values for result in results])
    low, high = float(values.min()), float(values.max())
    counts = [np.histogram(result.values, _BINS, (low, high))[0] for result in results]
    top = max(int(count.max()) for count in counts)
    lines = []
    for number, (result, count) in enumerate(zip(results, counts, strict=True)):
        points = " ".join(
            f"{10 + 600 * (i + 0.5) / _BINS:.1f},{170 - 150 * value / top:.1f}"
            for i, value in enumerate(count)
        )
        lines.append(f'<polyline class="line{number}" points="{points}"/>')
        lines.append(
            f'<text class="line{number}" x="20" y="{24 + 18 * number}">{escape(result.name)}</text>'
        )
    ticks = (
        f'<text x="{10 + 600 * i / 4:.0f}" y="190">{low + (high - low) * i / 4:.2f}</text>'
        for i in range(5)
    )
    return (
        '<svg viewBox="0 0 640 200" role="img" aria-label="Histogram of cosines">'
        f"{''.join(lines)}{''.join(ticks)}</svg>"
    )


def _reliability(evaluation: Evaluation) -> Iterator[str]:
    """Estimated scores against the actual ones. A calibrated model stays on the diagonal."""
    bins = evaluation.text_scores.reliability if evaluation.text_scores else None
    if not bins:
        return
    ends = [value for one in bins for value in (one.estimated, one.actual)]
    low, high = min(0.0, *ends), max(ends) * 1.1

    def place(estimated: float, actual: float) -> str:
        x, y = ((value - low) / (high - low) for value in (estimated, actual))
        return f"{40 + 260 * x:.1f},{280 - 260 * y:.1f}"

    worst = furthest_bin(bins)
    yield "<h2>Estimated and actual scores</h2>"
    yield (
        f"<p>Answers in {len(bins)} bins by their estimated score. Horizontal: mean estimated "
        "score; vertical: mean cosine of the answers to the true prompts. The furthest bin is "
        f"{abs(worst.estimated - worst.actual):.3f} from the diagonal.</p>"
    )
    yield '<svg class="square" viewBox="0 0 320 310" role="img" aria-label="Reliability of scores">'
    yield f'<polyline class="line1" points="{place(low, low)} {place(high, high)}"/>'
    points = " ".join(place(one.estimated, one.actual) for one in bins)
    yield f'<polyline class="line0" points="{points}"/>'
    yield from (_dot(one, place(one.estimated, one.actual)) for one in bins)
    for k in range(5):
        value = low + (high - low) * k / 4
        x, y = place(value, value).split(",")
        yield f'<text x="{x}" y="300" text-anchor="middle">{value:.2f}</text>'
        yield f'<text x="34" y="{y}" text-anchor="end">{value:.2f}</text>'
    yield "</svg>"


def _dot(one: Bin, place: str) -> str:
    x, y = place.split(",")
    about = f"estimated {one.estimated:.3f}, actual {one.actual:.3f}, {one.count} answers"
    return f'<circle class="line0" cx="{x}" cy="{y}" r="4"><title>{about}</title></circle>'


def _gallery(evaluation: Evaluation, images: int) -> Iterator[str]:
    values = evaluation.model.values
    order = np.argsort(-values, kind="stable")
    middle = max(0, len(order) // 2 - images // 2)
    shown: set[int] = set()
    for name, rows in (
        ("Best", order[:images]),
        ("Middle", order[middle : middle + images]),
        ("Worst", order[::-1][:images]),
    ):
        new = [int(row) for row in rows if int(row) not in shown]
        shown.update(new)
        if new:
            yield f'<h2>{name}</h2><div class="gallery">'
            yield from (_figure(evaluation, row) for row in new)
            yield "</div>"


def _figure(evaluation: Evaluation, row: int) -> str:
    image = evaluation.pairs.open_image(row, at_least=_THUMBNAIL)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    prompt = escape(evaluation.pairs.data.column("prompt")[row].as_py())
    answer = ""
    if evaluation.text_scores is not None:
        answer = f'<p class="answer">{escape(evaluation.text_scores.texts[row])}</p>'
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt=""><figcaption>'
        f'<b>{evaluation.model.values[row]:.3f}</b><p dir="auto">{prompt}</p>{answer}'
        "</figcaption></figure>"
    )


def _failures(failures: list[str]) -> Iterator[str]:
    if failures:
        yield f"<h2>Not decoded: {len(failures)}</h2><ul>"
        yield from (f"<li>{escape(line)}</li>" for line in failures)
        yield "</ul>"
