"""Lists of URLs that presets name, fetched once; and the presets as a table to read."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from unprompt.errors import UnpromptError
from unprompt.files import atomic_open
from unprompt.pairs.download import Preset


def to_text(presets: Mapping[str, Preset]) -> str:
    """What each preset is, a few lines each."""
    blocks = []
    for preset in presets.values():
        lines = [
            f"{preset.name}: {preset.title}",
            f"  {preset.pairs:,} pairs, {preset.size}; {preset.time}",
            f"  licence: {preset.licence}",
            f"  terms: {preset.terms}",
            f"  list: {preset.list}",
        ]
        if preset.manual:
            lines.append(f"  {preset.manual}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def fetch_list(preset: Preset, folder: Path) -> Path:
    """The preset's list of URLs as a file in ``folder``, fetched where it is not there yet.

    Raises:
        UnpromptError: it has to be fetched by hand, or cannot be fetched.
    """
    if preset.manual:
        raise UnpromptError(f"{preset.name}: {preset.manual} ({preset.list})")
    path = folder / f"{preset.name}.{preset.format}"
    if path.exists():
        return path
    try:
        with (
            urllib.request.urlopen(preset.list, timeout=60) as answer,  # noqa: S310 -- our own list
            atomic_open(path, "wb") as file,
        ):
            if preset.columns:
                file.write("\t".join(preset.columns).encode() + b"\n")
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, TimeoutError) as error:
        raise UnpromptError(f"{preset.list} cannot be fetched ({error}); try again later") from None
    return path
