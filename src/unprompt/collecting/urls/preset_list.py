"""Known data sets (``presets/*.toml``), and the download of their URL lists."""

from __future__ import annotations

import shutil
import tarfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, Any

from unprompt.errors import UnpromptError
from unprompt.files import atomic_open

_WAIT = 60
"""Seconds to wait for an answer of the server."""


@dataclass(frozen=True)
class Preset:
    """A known data set, described by one file of ``presets/``.

    Attributes:
        name: name on the command line.
        title: full name.
        list: address of its list of URLs.
        format: suffix of the list; ``tar.gz`` if the list is inside an archive, ``zip parts`` if
            the data set consists of zip files with images and prompts instead of a list.
        licence: licence of captions and images.
        terms: address of the terms.
        pairs: number of pairs.
        size: size on disk.
        time: time of the download.
        checked: sources of these facts; the addresses themselves were not opened.
        url_columns: possible names of the column of URLs.
        caption_columns: possible names of the column of captions.
        header: names of the columns of a list without a header.
        manual: instructions for the user if a program cannot download the list.
    """

    name: str
    title: str
    list: str
    format: str
    licence: str
    terms: str
    pairs: int
    size: str
    time: str
    checked: str
    url_columns: tuple[str, ...] = ("url",)
    caption_columns: tuple[str, ...] = ("caption",)
    header: tuple[str, ...] = ()
    manual: str = ""


def load_presets() -> dict[str, Preset]:
    """The known data sets by name."""
    presets = {}
    for entry in files("unprompt.collecting.urls").joinpath("presets").iterdir():
        if entry.name.endswith(".toml"):
            name = entry.name.removesuffix(".toml")
            stated: dict[str, Any] = tomllib.loads(entry.read_text(encoding="utf-8"))
            for key in ("url_columns", "caption_columns", "header"):
                if key in stated:
                    stated[key] = tuple(stated[key])
            presets[name] = Preset(name=name, **stated)
    return dict(sorted(presets.items()))


def to_text(presets: Mapping[str, Preset]) -> str:
    """A description of each preset in a few lines."""
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
    """Path of the preset's list of URLs in ``folder``, downloaded if it does not exist.

    Raises:
        UnpromptError: the user must download the list, or the download fails.
    """
    if preset.manual:
        raise UnpromptError(f"{preset.name}: {preset.manual} ({preset.list})")
    suffix = "json" if preset.format == "tar.gz" else preset.format
    path = folder / f"{preset.name}.{suffix}"
    if path.exists():
        return path
    try:
        with (
            urllib.request.urlopen(preset.list, timeout=_WAIT) as answer,  # noqa: S310 -- our own list
            atomic_open(path, "wb") as file,
        ):
            if preset.format == "tar.gz":
                _unpack(answer, suffix, file)
            else:
                shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, TimeoutError, tarfile.TarError, EOFError) as error:
        raise UnpromptError(f"{preset.list} cannot be fetched ({error}); try again later") from None
    return path


def _unpack(archive: IO[bytes], suffix: str, file: IO[bytes]) -> None:
    """Copy the first file of an archive that has this suffix."""
    with TemporaryFile() as whole:
        shutil.copyfileobj(archive, whole)
        whole.seek(0)
        with tarfile.open(fileobj=whole, mode="r:gz") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content and PurePosixPath(member.name).suffix == f".{suffix}":
                    shutil.copyfileobj(content, file)
                    return
    raise tarfile.TarError(f"it holds no .{suffix} file")
