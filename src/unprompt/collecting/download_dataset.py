"""Download a known data set, or the images of a URL list."""

from __future__ import annotations

from pathlib import Path

from unprompt.collecting.download import Download, Options, download_list
from unprompt.collecting.urls.diffusiondb_parts import download_parts
from unprompt.collecting.urls.preset_list import fetch_list, load_presets
from unprompt.errors import UnpromptError


def download(
    source: str | Path,
    folder: str | Path,
    options: Options | None = None,
    *,
    limit: int | None = None,
    urls: str | Path | None = None,
    url_column: str | None = None,
    caption_column: str | None = None,
    licence: str | None = None,
) -> Download:
    """Download the images of a data set and write their pairs table.

    The same call again downloads what is missing, and repeats temporary failures.

    Args:
        source: name of a preset (see `load_presets`), or a list of URLs with captions: a CSV, TSV,
            JSON, JSON lines or Parquet file, or a folder of such files.
        folder: folder of the images and of ``pairs.parquet``.
        options: how images are fetched and stored.
        limit: at most this many pairs, from the start of the list.
        urls: the preset's list, if the user downloaded it: a file or a folder.
        url_column: the list's column of URLs; ``url`` or the preset's by default.
        caption_column: the list's column of captions; ``caption`` or the preset's by default.
        licence: licence to write into the table; the preset's by default.

    Raises:
        MissingExtraError: img2dataset is not installed.
        TableError: the list cannot be read, or lacks a column.
        UnpromptError: the user must download the list, or the folder holds another download.
    """
    preset = load_presets().get(str(source))
    if preset is None:
        if urls is not None:
            raise UnpromptError(f"--urls needs a preset, and '{source}' is not one; see --list")
        return download_list(
            source,
            folder,
            options,
            url_columns=[url_column or "url"],
            caption_columns=[caption_column or "caption"],
            licence=licence,
            limit=limit,
        )
    if preset.format == "zip parts":
        return download_parts(preset, folder, limit=limit)
    return download_list(
        urls or fetch_list(preset, Path(folder)),
        folder,
        options,
        url_columns=[url_column] if url_column else preset.url_columns,
        caption_columns=[caption_column] if caption_column else preset.caption_columns,
        header=preset.header,
        source=preset.name,
        licence=licence or preset.licence,
        limit=limit,
    )
