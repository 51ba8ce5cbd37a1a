"""Images for prompts, and the pairs table of them; a run that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from unprompt.errors import OutputError, UnpromptError
from unprompt.files import atomic_open
from unprompt.pairs.table import Pair, PairsWriter, stream
from unprompt.progress import track
from unprompt.reading.infotext import format_infotext
from unprompt.reading.writing import write_prompt

TABLE = "pairs.parquet"
_SETTINGS = "settings.json"
_JOURNAL = ".journal.jsonl"
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Job:
    """One image to make.

    Attributes:
        prompt_id: 16 hexadecimal digits, a hash of the prompt.
        index: number of the image among those of its prompt, from 0.
        seed: the image's own seed, below 2**32, from prompt id, index and the run's seed alone.
    """

    prompt: str
    prompt_id: str
    index: int
    seed: int

    @property
    def id(self) -> str:
        """The pair's id."""
        return f"{self.prompt_id}-{self.index}"


class Backend(Protocol):
    """Makes images of prompts."""

    @property
    def name(self) -> str:
        """What the column ``generator`` says."""
        ...

    @property
    def licence(self) -> str | None:
        """Licence of the images, where it is known."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything but prompt and seed that the images depend on, ready for JSON.

        The keys ``negative_prompt``, ``steps``, ``sampler`` and ``guidance`` become columns.
        """
        ...

    @property
    def batch_size(self) -> int:
        """How many jobs are handed over at once."""
        ...

    def draw(self, jobs: Sequence[Job]) -> Sequence[Image.Image | UnpromptError]:
        """One image for each job, or the reason why there is none."""
        ...


@dataclass(frozen=True)
class Generation:
    """What a run did.

    Attributes:
        table: the pairs table.
        made: images made by this call.
        found: images that earlier calls had made.
        failed: what went wrong, by pair id; a further call tries these again.
        repeated: prompts left out because they stand earlier in the list.
    """

    table: Path
    made: int
    found: int
    failed: Mapping[str, str] = field(default_factory=dict)
    repeated: int = 0

    def __str__(self) -> str:
        text = f"{self.table}: {self.made + self.found:,} images, {self.made:,} of them made now"
        if self.repeated:
            text += f"; {self.repeated:,} repeated prompts left out"
        if self.failed:
            text += f"; {len(self.failed):,} failed, run the same command again to try these"
        return text


def prompt_id(prompt: str) -> str:
    """The id of a prompt: the first 16 hexadecimal digits of its SHA-256."""
    return sha256(prompt.encode()).hexdigest()[:16]


def image_seed(prompt: str, index: int, seed: int = 0) -> int:
    """The seed, below 2**32, of one image of a prompt; any image can be made again alone."""
    digest = sha256(f"{seed}/{prompt_id(prompt)}/{index}".encode()).digest()
    return int.from_bytes(digest[:4])


def generate(
    prompts: Iterable[str],
    folder: str | Path,
    backend: Backend,
    *,
    images_per_prompt: int = 1,
    seed: int = 0,
    format: str = "png",
    progress: bool = False,
) -> Generation:
    """Make images of prompts and write them with a pairs table into a folder.

    Every image lies under its final name only when it is whole, and is then noted in a journal;
    so the process can be killed at any instant, and the same call goes on with what is missing.
    The table and every file are in the end those of a run that was never stopped. Prompt and
    settings stand in each file in the form of AUTOMATIC1111's web UI.

    Args:
        prompts: one image or more of each; a repeated prompt counts once.
        folder: where ``pairs.parquet`` and ``images/`` go; one call at a time may work there. More
            prompts can be added by a later call with the same settings; the table then holds the
            prompts of that call.
        backend: what makes the images.
        images_per_prompt: how many, each with a seed of its own.
        seed: another seed gives other images.
        format: ``png``, ``webp`` or ``jpeg``.
        progress: show a bar.

    Raises:
        UnpromptError: no prompts, a number below 1, or the folder was made with other settings.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    if images_per_prompt < 1:
        raise UnpromptError(f"cannot make {images_per_prompt} images per prompt; ask for 1 or more")
    if format not in ("png", "webp", "jpeg"):
        raise UnpromptError(f"unknown format '{format}'; choose png, webp or jpeg")
    given = [prompt.strip() for prompt in prompts]
    distinct = [prompt for prompt in dict.fromkeys(given) if prompt]
    if not distinct:
        raise UnpromptError("there are no prompts to make images of")
    _agree_on_settings(folder, backend, seed, format)

    _clear_temporary(folder)
    jobs = list(_jobs(distinct, images_per_prompt, seed))
    suffix = {"jpeg": "jpg"}.get(format, format)
    done = _rows_done(folder)
    wanted = {job.id for job in jobs}
    done = {id: row for id, row in done.items() if id in wanted and (folder / row["file"]).exists()}
    failed = {job.id: reason for job in jobs if (reason := _unwritable(job.prompt))}
    missing = [job for job in jobs if job.id not in done and job.id not in failed]
    found = len(done)
    for job, image in track(
        _draw(backend, missing), "generating", total=len(missing), show=progress
    ):
        if isinstance(image, UnpromptError):
            failed[job.id] = str(image)
            continue
        row = _save(job, image, folder, backend, suffix)
        _note(folder, row)
        done[job.id] = row
    table = folder / TABLE
    with PairsWriter(table) as writer:
        rows = (Pair(**done[job.id]) for job in jobs if job.id in done)
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            writer.write(batch)
    # The table holds every row now, so the journal has done its work.
    (folder / _JOURNAL).unlink(missing_ok=True)
    return Generation(table, len(done) - found, found, failed, len(given) - len(distinct))


def _jobs(prompts: Sequence[str], images_per_prompt: int, seed: int) -> Iterator[Job]:
    for prompt in prompts:
        for index in range(images_per_prompt):
            yield Job(prompt, prompt_id(prompt), index, image_seed(prompt, index, seed))


def _draw(
    backend: Backend, jobs: Sequence[Job]
) -> Iterator[tuple[Job, Image.Image | UnpromptError]]:
    rest = iter(jobs)
    while batch := list(islice(rest, backend.batch_size)):
        yield from zip(batch, backend.draw(batch), strict=True)


def _unwritable(prompt: str) -> str | None:
    """Why a prompt cannot stand in a file, or None."""
    try:
        format_infotext(prompt)
    except ValueError as error:
        return f"'{prompt}': {error}"
    return None


def _save(
    job: Job, image: Image.Image, folder: Path, backend: Backend, suffix: str
) -> dict[str, Any]:
    """Write one image and return its row."""
    # 256 sub-folders keep each of them short enough for any file system.
    file = f"images/{job.prompt_id[:2]}/{job.id}.{suffix}"
    settings = backend.settings
    negative = settings.get("negative_prompt")
    stated = {
        "model": backend.name,
        "seed": job.seed,
        "width": image.width,
        "height": image.height,
        **{name: settings.get(name) for name in ("steps", "sampler", "guidance")},
    }
    options = {} if suffix == "png" else {"quality": 95}
    write_prompt(image, folder / file, job.prompt, negative, stated, **options)
    return asdict(
        Pair(
            id=job.id,
            file=file,
            prompt=job.prompt,
            negative_prompt=negative,
            generator=backend.name,
            source="unprompt generate",
            licence=backend.licence,
            width=image.width,
            height=image.height,
            seed=job.seed,
            steps=settings.get("steps"),
            sampler=settings.get("sampler"),
            guidance=settings.get("guidance"),
            sha256=sha256((folder / file).read_bytes()).hexdigest(),
        )
    )


def _agree_on_settings(folder: Path, backend: Backend, seed: int, format: str) -> None:
    """Note what the images depend on, or check that the folder's images depend on the same."""
    stated = {"generator": backend.name, "seed": seed, "format": format, **backend.settings}
    path = folder / _SETTINGS
    if not path.exists():
        with atomic_open(path) as file:
            json.dump(stated, file, indent=2, sort_keys=True)
            file.write("\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnpromptError(f"{path}: not JSON ({error}); choose another folder") from error
    other = sorted(
        key for key in stated.keys() | before.keys() if stated.get(key) != before.get(key)
    )
    if other:
        raise UnpromptError(
            f"{folder} holds images made with other settings ("
            + ", ".join(f"{key}: {before.get(key)} there, {stated.get(key)} now" for key in other)
            + "); choose another folder"
        )


def _clear_temporary(folder: Path) -> None:
    """Remove what killed processes were writing; one process at a time works in a folder."""
    for path in [*folder.glob(".*.tmp*"), *folder.glob("images/*/.*.tmp*")]:
        path.unlink()


def _rows_done(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows of the table of an earlier call and of the journal, by id."""
    rows: dict[str, dict[str, Any]] = {}
    if (folder / TABLE).exists():
        for batch in stream(folder / TABLE):
            rows.update((pair.id, asdict(pair)) for pair in batch)
    journal = folder / _JOURNAL
    if journal.exists():
        lines = journal.read_bytes().split(b"\n")
        # A line without its line break was cut off by the end of the process that wrote it.
        if lines.pop():
            with atomic_open(journal, "wb") as file:
                file.write(b"".join(line + b"\n" for line in lines))
        rows.update((row["id"], row) for row in map(json.loads, lines))
    return rows


def _note(folder: Path, row: Mapping[str, Any]) -> None:
    try:
        with (folder / _JOURNAL).open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
    except OSError as error:
        raise OutputError(f"cannot write {folder / _JOURNAL}: {error.strerror}") from error
