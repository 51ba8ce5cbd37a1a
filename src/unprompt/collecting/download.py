"""Download of URL lists with img2dataset, and the pairs table of the downloaded images."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from unprompt.collecting.journal import has_settings, write_settings
from unprompt.collecting.urls.url_list import read_list, write_list
from unprompt.errors import UnpromptError, need
from unprompt.files import atomic_open
from unprompt.pairs.table import Pair, PairsWriter

TABLE = "pairs.parquet"
_LIST = "urls.parquet"
_SETTINGS = "settings.json"
_COMPLETE = "complete"
_CHOICES = {
    "resize_mode": ("keep_ratio", "keep_ratio_largest", "center_crop", "border", "no"),
    "output_format": ("files", "webdataset"),
    "encode_format": ("jpg", "png", "webp"),
    "distributor": ("multiprocessing", "pyspark", "ray"),
}

# Reasons of temporary failures. HTTP: 408 request timeout, 425 too early, 429 too many requests,
# and the server errors that RFC 9110 calls temporary.
_TEMPORARY = re.compile(
    r"timed out|timeout|HTTP Error (?:408|425|429|500|502|503|504|52\d)|IncompleteRead|"
    r"[Cc]onnection (?:reset|aborted|refused)|Remote end closed|Temporary failure in name|"
    r"Network is unreachable|No route to host|EOF occurred|BadStatusLine|cut off"
)


@dataclass(frozen=True)
class Options:
    """Options of a download, with the names and meanings of img2dataset.

    Attributes:
        image_size: length in pixels of the side that ``resize_mode`` states.
        resize_mode: ``keep_ratio`` (shorter side), ``keep_ratio_largest``, ``center_crop``,
            ``border`` or ``no``.
        output_format: ``files`` or ``webdataset``.
        encode_format: ``jpg``, ``png`` or ``webp``.
        processes: worker processes.
        threads: downloads at once in each process.
        timeout: seconds to wait for an answer.
        shard_size: pairs in a shard; a killed call loses its unfinished shards.
        distributor: ``multiprocessing``, ``pyspark`` or ``ray``.
        wandb: report to Weights & Biases.
        allow_private: allow URLs and redirects to addresses that are not public.

    Raises:
        UnpromptError: an unknown choice, or a number that is too small.
    """

    image_size: int = 512
    resize_mode: str = "keep_ratio"
    output_format: str = "files"
    encode_format: str = "jpg"
    processes: int = 4
    threads: int = 64
    timeout: int = 10
    shard_size: int = 1000
    distributor: str = "multiprocessing"
    wandb: bool = False
    allow_private: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UnpromptError(
                    f"unknown {name} '{getattr(self, name)}'; choose {', '.join(allowed)}"
                )
        for name in ("image_size", "processes", "threads", "timeout"):
            if getattr(self, name) < 1:
                raise UnpromptError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.shard_size < 2:
            raise UnpromptError(f"shard_size must be 2 or more, not {self.shard_size}")


@dataclass(frozen=True)
class Download:
    """State of a download after a call.

    Attributes:
        table: path of the pairs table.
        listed: pairs in the list.
        arrived: pairs in the table.
        tried: pairs that this call tried.
        failures: number of missing pairs by reason.
        temporary: number of these that failed temporarily; the next call tries them again.
    """

    table: Path
    listed: int
    arrived: int
    tried: int
    failures: Mapping[str, int] = field(default_factory=dict)
    temporary: int = 0

    def __str__(self) -> str:
        share = self.arrived / self.listed if self.listed else 0.0
        text = f"{self.table}: {self.arrived:,} of {self.listed:,} pairs ({share:.1%})"
        text += "".join(f"\n  {count:8,}  {reason}" for reason, count in self.failures.items())
        if self.temporary:
            text += f"\n  {self.temporary:,} may arrive next time; run the same command again"
        return text


def is_temporary(reason: str) -> bool:
    """Whether another attempt may succeed after a failure for this reason."""
    return _TEMPORARY.search(reason) is not None


def download_list(
    url_list: str | Path,
    folder: str | Path,
    options: Options | None = None,
    *,
    url_columns: Sequence[str] = ("url",),
    caption_columns: Sequence[str] = ("caption",),
    header: Sequence[str] = (),
    source: str | None = None,
    licence: str | None = None,
    limit: int | None = None,
) -> Download:
    """Fetch the images of a list of URLs with captions, and write their pairs table.

    The next call fetches the shards that a killed call did not finish. If none is missing, it tries
    only temporary failures again (time-out, too many requests, server error).

    Args:
        url_list: CSV, TSV, JSON, JSON lines or Parquet file, or a folder of such files.
        folder: folder of the images, the list and ``pairs.parquet``.
        options: between calls for one folder, image and shard options must stay the same.
        url_columns: possible names of the column of URLs.
        caption_columns: possible names of the column of captions.
        header: names of the columns of a list without a header.
        source: column ``source`` of the table; by default the name of the list.
        licence: column ``licence`` of the table.
        limit: fetch at most this many pairs, from the start of the list.

    Raises:
        MissingExtraError: img2dataset is not installed.
        TableError: the list cannot be read, or lacks a column.
        UnpromptError: the folder was made from another list or with other options.
    """
    folder, options = Path(folder), options or Options()
    need("data", "img2dataset")
    if options.distributor == "ray":
        need("ray", "ray")
    elif options.distributor == "pyspark":
        need("spark", "pyspark")
    if options.wandb:
        need("all", "wandb")
    url_list = Path(url_list)
    source = source or url_list.stem
    lasting = ("image_size", "resize_mode", "output_format", "encode_format", "shard_size")
    stated: dict[str, Any] = {name: getattr(options, name) for name in lasting}
    stated |= {"source": source, "limit": limit}
    first = folder / "round-0"
    if not has_settings(folder / _SETTINGS, stated):
        rows = read_list(url_list, url_columns, caption_columns, header)
        write_list(rows, first / _LIST, limit)
        write_settings(folder / _SETTINGS, stated)
    rounds = _rounds(folder)
    if (rounds[-1] / _COMPLETE).exists() and (again := _to_retry(rounds)):
        rounds.append(folder / f"round-{len(rounds)}")
        write_list(iter(again), rounds[-1] / _LIST)
    tried = 0
    if not (rounds[-1] / _COMPLETE).exists():
        tried = pq.read_metadata(rounds[-1] / _LIST).num_rows
        _fetch(rounds[-1], options)
    last = _last_status(rounds)
    arrived = _write_table(folder, rounds, source, licence, options)
    reasons = Counter(reason for reason in last.values() if reason is not None)
    temporary = sum(count for reason, count in reasons.items() if is_temporary(reason))
    listed = pq.read_metadata(first / _LIST).num_rows
    return Download(folder / TABLE, listed, arrived, tried, dict(reasons.most_common()), temporary)


def _fetch(folder: Path, options: Options) -> None:
    """Fetch the missing shards of one round with img2dataset."""
    from unprompt.collecting.urls.public_addresses import GuardedDownloader, WatchedDownloader

    # img2dataset has a function with the name of this module.
    img2dataset: Any = import_module("img2dataset.main")
    distributor: Any = import_module("img2dataset.distributor")
    _clear_half_shards(folder)
    downloader, context = img2dataset.Downloader, distributor.get_context
    img2dataset.Downloader = WatchedDownloader if options.allow_private else GuardedDownloader
    distributor.get_context = lambda _: _processes()
    # Stops the library that scales the images from looking for updates in every process.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        with _print_to_stderr(), _interruptible():
            img2dataset.download(
                url_list=str(folder / _LIST),
                input_format="parquet",
                url_col="url",
                caption_col="caption",
                output_folder=str(folder / "images"),
                output_format=options.output_format,
                image_size=options.image_size,
                resize_mode=options.resize_mode,
                resize_only_if_bigger=options.resize_mode != "border",
                encode_format=options.encode_format,
                # For PNG this is the compression level, 0 to 9; for JPEG and WebP the quality.
                encode_quality=6 if options.encode_format == "png" else 95,
                processes_count=options.processes,
                thread_count=options.threads,
                timeout=options.timeout,
                number_sample_per_shard=options.shard_size,
                distributor=options.distributor,
                enable_wandb=options.wandb,
                # Web pages can forbid the use of their images by this name.
                user_agent_token="img2dataset",  # noqa: S106 -- a name, no secret
            )
    finally:
        img2dataset.Downloader, distributor.get_context = downloader, context
    rows = pq.read_metadata(folder / _LIST).num_rows
    shards = -(-rows // options.shard_size)
    if len(_shards(folder)) < shards:
        raise UnpromptError(
            f"{folder}: {shards - len(_shards(folder))} of {shards} shards failed; "
            "run the same command again"
        )
    with atomic_open(folder / _COMPLETE) as file:
        file.write(f"{rows}\n")


def _processes() -> BaseContext:
    """Start worker processes as copies of one that has loaded img2dataset.

    By default img2dataset starts new processes after every five shards, which takes seconds.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["img2dataset.main"])
    return context


@contextmanager
def _print_to_stderr() -> Iterator[None]:
    """Redirect the output of this process and its workers to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt when img2dataset exits with success after Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        raise UnpromptError("img2dataset runs in the main thread only; call download from it")
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        signal.signal(signal.SIGINT, handler)


def _clear_half_shards(folder: Path) -> None:
    """Remove the unfinished shards of a killed run, so that they are fetched again."""
    whole = {path.stem for path in _shards(folder)}
    for path in (folder / "images").glob("*"):
        if path.name.split(".")[0].split("_")[0] not in whole:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _rounds(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("round-*") if (path / _LIST).exists()]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def _shards(folder: Path) -> list[Path]:
    """Tables of the finished shards; img2dataset writes a shard's statistics last."""
    stats = sorted((folder / "images").glob("*_stats.json"))
    return [path.with_name(path.name.replace("_stats.json", ".parquet")) for path in stats]


def _outcomes(folder: Path) -> Iterator[dict[str, Any]]:
    columns = ["url", "caption", "key", "status", "error_message", "width", "height"]
    for shard in _shards(folder):
        for row in pq.read_table(shard, columns=columns).to_pylist():
            yield {**row, "shard": shard.stem}


def _last_status(rounds: list[Path]) -> dict[tuple[str, str], str | None]:
    """Why each pair is missing, or None if it arrived; later rounds overrule earlier ones."""
    last: dict[tuple[str, str], str | None] = {}
    for folder in rounds:
        for row in _outcomes(folder):
            reason = None if row["status"] == "success" else str(row["error_message"])
            last[row["url"], row["caption"]] = reason
    return last


def _to_retry(rounds: list[Path]) -> list[tuple[str, str]]:
    return [
        pair for pair, reason in _last_status(rounds).items() if reason and is_temporary(reason)
    ]


def _write_table(
    folder: Path, rounds: list[Path], source: str, licence: str | None, options: Options
) -> int:
    suffix = options.encode_format
    between = ".tar" if options.output_format == "webdataset" else ""
    with PairsWriter(folder / TABLE) as writer:
        for path in rounds:
            batch = [
                Pair(
                    id=f"{path.name.partition('-')[2]}-{row['key']}",
                    file=f"{path.name}/images/{row['shard']}{between}/{row['key']}.{suffix}",
                    prompt=" ".join(row["caption"].split()),
                    source=source,
                    licence=licence,
                    exact=False,
                    width=row["width"],
                    height=row["height"],
                )
                for row in _outcomes(path)
                if row["status"] == "success"
            ]
            # Threads finish in any order; the table keeps the order of the list.
            writer.write(sorted(batch, key=lambda pair: pair.id))
        return writer.rows
