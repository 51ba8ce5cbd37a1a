"""A run's log as pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unprompt.files import atomic_path
from unprompt.training.callbacks import LOG_FILE

LOSS_FILE = "loss.png"
SCORE_FILE = "score.png"


def plot(folder: Path) -> None:
    """Sample ``loss.png`` and ``score.png`` of a run folder from its ``metrics.jsonl``.

    The score is the mean cosine on the validation split, with that of each source in thin lines;
    a captioner's run has its validation loss in ``loss.png`` only.
    """
    path = folder / LOG_FILE
    if not path.exists():
        return
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    losses = {"training": _series(entries, "loss"), "validation": _series(entries, "eval_loss")}
    _draw(folder / LOSS_FILE, "loss", losses)
    names = sorted({key for entry in entries for key in entry if key.startswith("eval_cosine")})
    scores = {name.removeprefix("eval_cosine").strip("/") or "all": name for name in names}
    _draw(
        folder / SCORE_FILE,
        "mean cosine on val",
        {label: _series(entries, name) for label, name in scores.items()},
    )


def _series(entries: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[key]) for entry in entries if key in entry]


def _draw(path: Path, what: str, series: dict[str, list[tuple[int, float]]]) -> None:
    # Not pyplot, which would keep every figure and ask for a screen.
    from matplotlib.figure import Figure

    shown = {label: points for label, points in series.items() if points}
    if not shown:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, points in shown.items():
        thick = label in ("all", "training", "validation")
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=label, linewidth=2 if thick else 0.8, marker=".")
    axes.set_xlabel("step")
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
