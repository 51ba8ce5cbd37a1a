"""Images of URL lists, downloaded by img2dataset, with a pairs table of what arrived."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unprompt.errors import MissingExtraError, TableError, UnpromptError
from unprompt.files import atomic_open, atomic_path
from unprompt.pairs.compose import text_key
from unprompt.pairs.table import Pair, PairsWriter

TABLE = "pairs.parquet"
_LIST = "urls.parquet"
_SETTINGS = "settings.json"
_COMPLETE = "complete"
_BATCH = 10_000

# What may be different next time. HTTP: 408 request timeout, 425 too early, 429 too many requests,
# and the server errors that RFC 9110 calls temporary.
_PASSING = re.compile(
    r"timed out|timeout|HTTP Error (?:408|425|429|500|502|503|504|52\d)|IncompleteRead|"
    r"[Cc]onnection (?:reset|aborted|refused)|Remote end closed|Temporary failure in name|"
    r"Network is unreachable|No route to host|EOF occurred|BadStatusLine"
)


@dataclass(frozen=True)
class Preset:
    """A known data set; one small file each in ``presets/``.

    Attributes:
        name: what it is called on the command line.
        title: what it is.
        list: where its list of URLs lies.
        format: of the list.
        url_column: column of the URLs.
        caption_column: column of the captions.
        licence: of captions and images.
        terms: where the terms stand.
        pairs: how many it lists.
        size: on disk.
        time: what its download takes.
        columns: names of the list's columns where it has no header.
        manual: what has to be done by hand, where its list cannot be fetched outright.
    """

    name: str
    title: str
    list: str
    format: str
    url_column: str
    caption_column: str
    licence: str
    terms: str
    pairs: int
    size: str
    time: str
    columns: tuple[str, ...] = ()
    manual: str = ""


@dataclass(frozen=True)
class Options:
    """How images are fetched and stored; names and meanings are img2dataset's.

    Attributes:
        image_size: pixels of the side that ``resize_mode`` speaks of.
        resize_mode: ``keep_ratio`` (shorter side), ``keep_ratio_largest``, ``center_crop``,
            ``border`` or ``no``.
        output_format: ``files`` or ``webdataset``.
        encode_format: ``jpg``, ``png`` or ``webp``.
        processes: worker processes.
        threads: downloads at once in each process.
        timeout: seconds without an answer.
        shard_size: pairs in a shard; a killed run loses the shards it was at.
        distributor: ``multiprocessing``, ``pyspark`` or ``ray``.
        wandb: report to Weights & Biases.
        allow_private: let URLs and redirects lead to addresses that are not public.
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


@dataclass(frozen=True)
class Download:
    """What is there after a call.

    Attributes:
        table: the pairs table.
        listed: pairs asked for.
        arrived: pairs in the table.
        tried: pairs that this call tried.
        failures: how often each reason kept a pair away, of those still missing.
        passing: how many of these a further call tries again.
    """

    table: Path
    listed: int
    arrived: int
    tried: int
    failures: Mapping[str, int] = field(default_factory=dict)
    passing: int = 0

    def __str__(self) -> str:
        share = self.arrived / self.listed if self.listed else 0.0
        text = f"{self.table}: {self.arrived:,} of {self.listed:,} pairs ({share:.1%})"
        text += "".join(f"\n  {count:8,}  {reason}" for reason, count in self.failures.items())
        if self.passing:
            text += f"\n  {self.passing:,} may arrive next time; run the same command again"
        return text


def load_presets() -> dict[str, Preset]:
    """The known data sets by name."""
    presets = {}
    for entry in files("unprompt.pairs").joinpath("presets").iterdir():
        if entry.name.endswith(".toml"):
            name = entry.name.removesuffix(".toml")
            stated = tomllib.loads(entry.read_text(encoding="utf-8"))
            stated["columns"] = tuple(stated.get("columns", ()))
            presets[name] = Preset(name=name, **stated)
    return dict(sorted(presets.items()))


def is_passing(reason: str) -> bool:
    """Whether a failure may be gone next time."""
    return _PASSING.search(reason) is not None


def download(
    url_list: str | Path,
    folder: str | Path,
    options: Options | None = None,
    *,
    url_column: str = "url",
    caption_column: str = "caption",
    source: str | None = None,
    licence: str | None = None,
    limit: int | None = None,
) -> Download:
    """Fetch the images of a list of URLs with captions, and write their pairs table.

    The first call fetches the list. A call after a killed one goes on with the shards that are
    missing; a call after a finished one tries the URLs that failed for a passing reason (time-out,
    too many requests, server error) again, and nothing else.

    Args:
        url_list: CSV, TSV, JSON lines or Parquet file, with a header.
        folder: where images, list and ``pairs.parquet`` go.
        options: how; the same in every call for one folder, but for processes, threads, timeout.
        url_column: its column of URLs.
        caption_column: its column of captions.
        source: column ``source`` of the table; the name of the list by default.
        licence: column ``licence`` of the table.
        limit: only so many of the list.

    Raises:
        MissingExtraError: img2dataset is not installed.
        TableError: the list cannot be read, or lacks a column.
        UnpromptError: the folder is that of another list or of other options.
    """
    folder, options = Path(folder), options or Options()
    try:
        import img2dataset
    except ImportError as error:
        raise MissingExtraError("img2dataset", "data") from error
    del img2dataset
    url_list = Path(url_list)
    source = source or url_list.stem
    folder.mkdir(parents=True, exist_ok=True)
    lasting = ("image_size", "resize_mode", "output_format", "encode_format", "shard_size")
    stated = {name: value for name, value in asdict(options).items() if name in lasting}
    _agree(folder, {"source": source, "limit": limit, **stated})
    first = folder / "round-0"
    if not (first / _LIST).exists():
        _write_list(read_list(url_list, url_column, caption_column), first / _LIST, limit)
    rounds = _rounds(folder)
    if (rounds[-1] / _COMPLETE).exists() and (again := _to_retry(rounds)):
        rounds.append(folder / f"round-{len(rounds)}")
        _write_list(iter(again), rounds[-1] / _LIST)
    tried = 0
    if not (rounds[-1] / _COMPLETE).exists():
        tried = pq.read_metadata(rounds[-1] / _LIST).num_rows
        _fetch(rounds[-1], options)
    last = _last_status(rounds)
    arrived = _write_table(folder, rounds, source, licence, options)
    reasons = Counter(reason for reason in last.values() if reason is not None)
    passing = sum(count for reason, count in reasons.items() if is_passing(reason))
    listed = pq.read_metadata(first / _LIST).num_rows
    return Download(folder / TABLE, listed, arrived, tried, dict(reasons.most_common()), passing)


def read_list(
    path: Path, url_column: str = "url", caption_column: str = "caption"
) -> Iterator[tuple[str, str]]:
    """URLs and captions of a list, batch by batch; rows without one of them are passed over.

    Raises:
        TableError: not there, not readable, or a column is missing.
    """
    for batch in _list_batches(path):
        for column in (url_column, caption_column):
            if column not in batch.schema.names:
                raise TableError(
                    f"{path}: column '{column}' is missing; it holds "
                    f"{', '.join(batch.schema.names)}; name it with --url-column or "
                    "--caption-column"
                )
        urls, captions = batch[url_column].to_pylist(), batch[caption_column].to_pylist()
        for url, caption in zip(urls, captions, strict=True):
            if url and caption and str(caption).strip():
                yield str(url), str(caption)


def _list_batches(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow.csv
    import pyarrow.json

    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from pq.ParquetFile(path).iter_batches(_BATCH)
        elif suffix in (".jsonl", ".json"):
            yield from pyarrow.json.read_json(path).to_batches(_BATCH)
        elif suffix in (".csv", ".tsv"):
            parsing = pyarrow.csv.ParseOptions(
                delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True
            )
            yield from pyarrow.csv.open_csv(path, parse_options=parsing)
        else:
            raise TableError(
                f"{path}: a list of URLs is a .parquet, .csv, .tsv, .json or .jsonl file with "
                "columns of URLs and captions"
            )
    except (OSError, pa.ArrowInvalid) as error:
        raise TableError(f"{path}: cannot be read ({error})") from error


def _write_list(rows: Iterator[tuple[str, str]], path: Path, limit: int | None = None) -> None:
    """Write each pair of URL and caption once."""
    schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
    seen: set[int] = set()
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        batch: list[dict[str, str]] = []
        for url, caption in rows:
            key = text_key(f"{url}\0{caption}")
            if limit is not None and len(seen) >= limit:
                break
            if key not in seen:
                seen.add(key)
                batch.append({"url": url, "caption": caption})
            if len(batch) == _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))


def _fetch(folder: Path, options: Options) -> None:
    """Let img2dataset fetch the shards of one round that are missing."""
    from unprompt.pairs.guard import GuardedDownloader

    # The package has a function of the same name as this module.
    img2dataset: Any = import_module("img2dataset.main")
    downloader = img2dataset.Downloader
    if not options.allow_private:
        img2dataset.Downloader = GuardedDownloader
    # The library that it scales images with would look for updates of itself in every process.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        with _talking_to_stderr():
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
                # For PNG it is the effort of the compression, 0 to 9.
                encode_quality=6 if options.encode_format == "png" else 95,
                processes_count=options.processes,
                thread_count=options.threads,
                timeout=options.timeout,
                number_sample_per_shard=options.shard_size,
                distributor=options.distributor,
                enable_wandb=options.wandb,
            )
    finally:
        img2dataset.Downloader = downloader
    rows = pq.read_metadata(folder / _LIST).num_rows
    shards = -(-rows // options.shard_size)
    if len(_shards(folder)) < shards:
        raise UnpromptError(
            f"{folder}: {shards - len(_shards(folder))} of {shards} shards failed; "
            "run the same command again"
        )
    with atomic_open(folder / _COMPLETE) as file:
        file.write(f"{rows}\n")


@contextmanager
def _talking_to_stderr() -> Iterator[None]:
    """What this process and those it starts print goes to standard error; results go to stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _rounds(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("round-*") if (path / _LIST).exists()]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def _shards(folder: Path) -> list[Path]:
    """Tables of the whole shards: img2dataset writes the statistics of a shard last."""
    stats = sorted((folder / "images").glob("*_stats.json"))
    return [path.with_name(path.name.replace("_stats.json", ".parquet")) for path in stats]


def _outcomes(folder: Path) -> Iterator[dict[str, Any]]:
    columns = ["url", "caption", "key", "status", "error_message", "width", "height"]
    for shard in _shards(folder):
        for row in pq.read_table(shard, columns=columns).to_pylist():
            yield {**row, "shard": shard.stem}


def _last_status(rounds: list[Path]) -> dict[tuple[str, str], str | None]:
    """Why each pair is missing, or None for those that arrived; the last round decides."""
    last: dict[tuple[str, str], str | None] = {}
    for folder in rounds:
        for row in _outcomes(folder):
            reason = None if row["status"] == "success" else str(row["error_message"])
            last[row["url"], row["caption"]] = reason
    return last


def _to_retry(rounds: list[Path]) -> list[tuple[str, str]]:
    return [pair for pair, reason in _last_status(rounds).items() if reason and is_passing(reason)]


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
            # Threads finish in any order; the table has that of the list.
            writer.write(sorted(batch, key=lambda pair: pair.id))
        return writer.rows


def _agree(folder: Path, stated: Mapping[str, Any]) -> None:
    """Note what the folder holds, or check that it is the same."""
    path = folder / _SETTINGS
    if not path.exists():
        with atomic_open(path) as file:
            json.dump(stated, file, indent=2)
            file.write("\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before != dict(stated):
        other = sorted(key for key in stated if stated[key] != before.get(key))
        raise UnpromptError(
            f"{folder} holds another download ("
            + ", ".join(f"{key}: {before.get(key)} there, {stated[key]} now" for key in other)
            + "); choose another folder"
        )
