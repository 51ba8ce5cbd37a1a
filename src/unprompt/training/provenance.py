"""What a run folder tells about where its model came from."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from unprompt.pairs.table import PairsTable

CALLS_FILE = "calls.jsonl"
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


def note_call(folder: Path, data: PairsTable | Path) -> None:
    """Append a line to ``calls.jsonl``: when and how the run was called, on what, with what.

    A run that was stopped and went on has a line for each call, so that a change of versions,
    code or device in the middle shows. ``data`` is the table, or a file of texts.
    """
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device(),
        "git": _git(Path(__file__).parent),
        "data": fingerprint(data),
    }
    with (folder / CALLS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def fingerprint(table: PairsTable | Path) -> dict[str, Any]:
    """Rows of each split, and a hash of which pairs they are and what is to be learned of them."""
    digest = hashlib.sha256()
    if isinstance(table, Path):
        if table.is_file():
            with table.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
        return {"table": str(table), "sha256": digest.hexdigest()}
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
