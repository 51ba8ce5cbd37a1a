"""Images for prompts, and the pairs table of them; a run that was killed goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from unprompt.collecting.images.journal import (
    TABLE,
    Row,
    journal_of,
    locked,
    note,
    remove_journals,
    rows_done,
)
from unprompt.collecting.images.shard_writer import check_order, loose, pack
from unprompt.errors import UnpromptError
from unprompt.files import atomic_open
from unprompt.pairs.table import Pair, PairsWriter
from unprompt.progress import track
from unprompt.reading.infotext import format_infotext
from unprompt.reading.write_image import write_prompt

_SETTINGS = "settings.json"
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

    def note(self, prompt: str) -> str | None:
        """What is to be said of a prompt, as that the end of it is not seen; None mostly."""
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
        repeated: prompts left out because they stand earlier in the list, or are empty.
        notes: what the backend has to say of prompts, as that it reads only their beginning.
    """

    table: Path
    made: int
    found: int
    failed: Mapping[str, str] = field(default_factory=dict)
    repeated: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.table}: {self.made + self.found:,} images, {self.made:,} of them made now"
        if self.repeated:
            text += f"; {self.repeated:,} repeated prompts left out"
        if self.notes:
            prompt, note = next(iter(self.notes.items()))
            text += f"; {len(self.notes):,} prompts too long, as '{prompt[:60]}': {note}"
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
    shard_size: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Generation:
    """Make images of prompts and write them with a pairs table into a folder.

    Every image lies under its final name only when it is whole, and is then noted in a journal;
    so the process can be killed at any instant, and the same call goes on with what is missing.
    The table and every file are in the end those of a run that was never stopped. Prompt and
    settings stand in each file in the form of AUTOMATIC1111's web UI.

    A batch of which an image is missing is made again whole, since an image of a network may
    depend in its last bits on the batch it was in.

    Args:
        prompts: one image or more of each; a repeated prompt counts once.
        folder: where ``pairs.parquet`` and ``images/`` go. More prompts can be added by a later
            call with the same settings; the table then holds the prompts of that call.
        backend: what makes the images.
        images_per_prompt: how many, each with a seed of its own.
        seed: another seed gives other images.
        format: ``png``, ``webp`` or ``jpeg``.
        shard_size: images in a tar shard of WebDataset under ``shards/``, each packed as soon as
            its images are there; single files under ``images/`` by default. In shards, prompts
            can be added at the end of the list only.
        share: ``(k, n)`` makes the k-th, from 0, of n disjoint shares, each in a process of its
            own; the last process to finish completes the table.

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
    if shard_size is not None and shard_size < 1:
        raise UnpromptError(f"cannot make shards of {shard_size} images; ask for 1 or more")
    _agree_on_settings(folder, backend, seed, format, shard_size)

    _clear_temporary(folder, share)
    jobs = list(_jobs(distinct, images_per_prompt, seed))
    failed = {job.id: reason for job in jobs if (reason := _unwritable(job.prompt))}
    possible = [job for job in jobs if job.id not in failed]
    rows = rows_done(folder, {job.id for job in possible})
    # A share is whole batches, or whole shards of them.
    parts = _cut(possible, shard_size or backend.batch_size)
    if shard_size is not None:
        check_order(folder, [[job.id for job in part] for part in parts], rows)
    mine = range(share[0], len(parts), share[1])
    missing = sum(job.id not in rows for number in mine for job in parts[number])
    found = sum(len(parts[number]) for number in mine) - missing
    journal = journal_of(folder, share[0])

    def drawn() -> Iterator[tuple[Job, Image.Image | UnpromptError]]:
        for number in mine:
            yield from _draw(backend, _cut(parts[number], backend.batch_size), rows)
            if shard_size is not None:
                _pack(folder, number, [rows[job.id] for job in parts[number] if job.id in rows])

    def _pack(folder: Path, number: int, held: Sequence[Row]) -> None:
        packed = pack(folder, number, held)
        note(journal, packed)
        for row in filter(loose, held):
            (folder / row["file"]).unlink()
        rows.update((row["id"], row) for row in packed)

    made = 0
    for job, image in track(drawn(), "generating", total=missing):
        if isinstance(image, UnpromptError):
            failed[job.id] = str(image)
            continue
        rows[job.id] = _save(job, image, folder, backend, format)
        note(journal, [rows[job.id]])
        made += 1
    _write_table(folder, jobs, len(failed), shard_size is not None)
    notes = {prompt: said for prompt in distinct if (said := backend.note(prompt))}
    return Generation(folder / TABLE, made, found, failed, len(given) - len(distinct), notes)


def _cut(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def _jobs(prompts: Sequence[str], images_per_prompt: int, seed: int) -> Iterator[Job]:
    for prompt in prompts:
        for index in range(images_per_prompt):
            yield Job(prompt, prompt_id(prompt), index, image_seed(prompt, index, seed))


def _draw(
    backend: Backend, batches: Sequence[Sequence[Job]], done: Collection[str]
) -> Iterator[tuple[Job, Image.Image | UnpromptError]]:
    for batch in batches:
        missing = {job.id for job in batch if job.id not in done}
        if missing:
            for job, image in zip(batch, backend.draw(batch), strict=True):
                if job.id in missing:
                    yield job, image


def _write_table(folder: Path, jobs: Sequence[Job], failed: int, packed: bool) -> None:
    """Write the table of all images there are, whichever process made them."""
    with locked(folder):
        done = rows_done(folder, {job.id for job in jobs})
        with PairsWriter(folder / TABLE) as writer:
            rows = (Pair(**done[job.id]) for job in jobs if job.id in done)
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                writer.write(batch)
        # Where no other process is at work the table holds all that the journals do.
        if len(done) + failed == len(jobs):
            remove_journals(folder)
            if packed and (folder / "images").exists():
                shutil.rmtree(folder / "images")


def _unwritable(prompt: str) -> str | None:
    """Why a prompt cannot stand in a file, or None."""
    try:
        format_infotext(prompt)
    except ValueError as error:
        return f"'{prompt}': {error}"
    return None


def _save(job: Job, image: Image.Image, folder: Path, backend: Backend, format: str) -> Row:
    """Write one image and return its row."""
    suffix = "jpg" if format == "jpeg" else format
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
    options = {} if format == "png" else {"quality": 95}
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


def _agree_on_settings(
    folder: Path, backend: Backend, seed: int, format: str, shard_size: int | None
) -> None:
    """Note what the images depend on, or check that the folder's images depend on the same."""
    stated = {"generator": backend.name, "seed": seed, "format": format, **backend.settings}
    if shard_size is not None:
        stated["shard_size"] = shard_size
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


def _clear_temporary(folder: Path, share: tuple[int, int]) -> None:
    """Remove what killed processes were writing, unless others may be at work."""
    if share[1] == 1:
        for place in (".*.tmp*", "images/*/.*.tmp*", "shards/.*.tmp*"):
            for path in folder.glob(place):
                path.unlink()
