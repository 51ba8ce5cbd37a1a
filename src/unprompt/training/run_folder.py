"""The run folder: its files, the record of every call, and the curves of the log."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from unprompt.errors import RecipeError
from unprompt.files import atomic_open, atomic_path
from unprompt.pairs.table import PairsTable
from unprompt.training.recipe import Recipe, recipe_text, save_recipe

RECIPE_FILE = "recipe.yaml"
TABLE_FILE = "pairs.parquet"
CALLS_FILE = "calls.jsonl"
LOG_FILE = "metrics.jsonl"
LOSS_FILE = "loss.png"
SCORE_FILE = "score.png"
FAILURES_FILE = "unreadable.txt"
SCORES_FILE = "scores.json"
CHECKPOINTS_FOLDER = "checkpoints"
MODEL_FOLDER = "model"

_LIBRARIES = (
    "unprompt",
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "timm",
    "open_clip_torch",
    "peft",
    "numpy",
    "pillow",
)


def claim(folder: Path, recipe: Recipe, fresh: bool) -> None:
    """Make a folder the run folder of this recipe.

    Raises:
        RecipeError: it holds the run of another recipe, or is to be emptied and holds no run.
    """
    path = folder / RECIPE_FILE
    if fresh and folder.exists():
        if not path.exists() and any(folder.iterdir()):
            raise RecipeError(f"{folder} is not a run folder; nothing was deleted")
        shutil.rmtree(folder)
    if path.exists() and path.read_text(encoding="utf-8") != recipe_text(recipe):
        raise RecipeError(
            f"{folder} holds the run of another recipe; name another output=…, or discard it "
            "with --fresh"
        )
    save_recipe(recipe, path)


def save_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Write ``scores.json``."""
    with atomic_open(folder / SCORES_FILE) as file:
        json.dump(scores, file, indent=2)
        file.write("\n")


def read_failures(folder: Path) -> list[str]:
    """The lines of ``unreadable.txt``; none where there is no such file."""
    path = folder / FAILURES_FILE
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def note_call(folder: Path, table: PairsTable) -> None:
    """Append a line to ``calls.jsonl``: when and how the run was called, with what, on what data.

    A resumed run has a line for each call, which shows a change of versions, code or device.
    """
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device(),
        "git": _git(Path(__file__).parent),
        "data": _fingerprint(table),
    }
    with (folder / CALLS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _fingerprint(table: PairsTable) -> dict[str, Any]:
    """Rows of each split, and a hash of the pairs and their embeddings."""
    digest = hashlib.sha256()
    columns = (table.column("id"), table.column("split"), table.prompts, table.column("sha256"))
    for row in zip(*columns, strict=True):
        digest.update(json.dumps(row).encode())
    digest.update(table.embeddings.tobytes())
    rows = Counter(split for split in table.column("split") if split)
    return {"table": table.name, "rows": dict(rows), "sha256": digest.hexdigest()}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU, {torch.get_num_threads()} threads"


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit of the code, and whether files differ from it; None outside a repository."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return done.stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--untracked-files=no", ".")
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None


def plot(folder: Path) -> None:
    """Sample ``loss.png`` and ``score.png`` of a run folder from its ``metrics.jsonl``.

    The score is the mean cosine on the validation split; thin lines show it for each source. Runs
    of captioners and decoders log no score, only a validation loss.
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
