"""Generation of images from prompts, with a pairs table; a killed run can continue."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from PIL import Image

from unprompt.collecting.images.backends import make_backend
from unprompt.collecting.images.generation_folder import (
    TABLE,
    Row,
    check_shards,
    clear_temporary,
    finished_rows,
    is_single_file,
    record,
    write_shard,
    write_table,
)
from unprompt.collecting.images.jobs import Backend, Job
from unprompt.collecting.journal import has_settings, write_settings
from unprompt.errors import UnpromptError
from unprompt.pairs.prompt_file import prompts_of
from unprompt.pairs.table import Pair
from unprompt.progress import track
from unprompt.reading.infotext import format_infotext
from unprompt.reading.write_image import write_prompt

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Generation:
    """Result of a run.

    Attributes:
        table: path of the pairs table.
        made: images made by this call.
        found: images made by earlier calls.
        failed: reason of each failure, by pair id; the next call tries these images again.
        repeated: prompts left out because they are empty or repeat an earlier one.
        warnings: the backend's warnings, by prompt.
    """

    table: Path
    made: int
    found: int
    failed: Mapping[str, str] = field(default_factory=dict)
    repeated: int = 0
    warnings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.table}: {self.made + self.found:,} images, {self.made:,} of them made now"
        if self.repeated:
            text += f"; {self.repeated:,} repeated prompts left out"
        if self.warnings:
            prompt, warning = next(iter(self.warnings.items()))
            text += f"; {len(self.warnings):,} prompts too long, as '{prompt[:60]}': {warning}"
        if self.failed:
            text += f"; {len(self.failed):,} failed, run the same command to try them again"
        return text


def prompt_id(prompt: str) -> str:
    """The id of a prompt: the first 16 hexadecimal digits of its SHA-256."""
    return sha256(prompt.encode()).hexdigest()[:16]


def image_seed(prompt: str, index: int, seed: int = 0) -> int:
    """The seed, below 2**32, of one image of a prompt. It does not depend on other images."""
    digest = sha256(f"{seed}/{prompt_id(prompt)}/{index}".encode()).digest()
    return int.from_bytes(digest[:4])


def generate(
    prompts: Iterable[str] | Path,
    folder: str | Path,
    backend: Backend | str = "diffusers",
    *,
    images_per_prompt: int = 1,
    seed: int = 0,
    format: str = "png",
    shard_size: int | None = None,
    share: tuple[int, int] | None = None,
) -> Generation:
    """Generate images from prompts, and write them with a pairs table into a folder.

    An image gets its final name when it is complete, and is then recorded in a journal. So the
    process can be killed at any time; the same call then makes the missing images, and the result
    equals that of a run that was never stopped. Each file holds its prompt and settings, in the
    format of AUTOMATIC1111's web UI.

    If one image of a batch is missing, the whole batch is computed again, because the last bits of
    an image can depend on its batch.

    Args:
        prompts: prompts, or the path of a file of prompts (see `prompts_of`). A repeated prompt
            counts once.
        folder: folder of ``pairs.parquet`` and ``images/``. A later call with the same settings can
            add prompts; the table then holds the prompts of that call.
        backend: backend that makes the images, or its name (see `make_backend`).
        images_per_prompt: number of images for each prompt; each has its own seed.
        seed: random seed.
        format: ``png``, ``webp`` or ``jpeg``.
        shard_size: images in a tar shard (WebDataset) under ``shards/``; by default images are
            single files under ``images/``. With shards, new prompts may come only at the end of
            the list.
        share: ``(k, n)`` makes the k-th of n disjoint shares, counted from 0, each in its own
            process. The last process to finish completes the table. The default is taken from the
            environment variables ``RANK`` and ``WORLD_SIZE``, which torchrun sets.

    Raises:
        UnpromptError: there are no prompts, a number is below 1, or the folder was made with other
            settings.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    if share is None:
        share = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if images_per_prompt < 1:
        raise UnpromptError(f"cannot make {images_per_prompt} images per prompt; ask for 1 or more")
    if format not in ("png", "webp", "jpeg"):
        raise UnpromptError(f"unknown format '{format}'; choose png, webp or jpeg")
    if isinstance(backend, str):
        backend = make_backend(backend)
    texts = prompts_of(prompts) if isinstance(prompts, Path) else prompts
    given = [prompt.strip() for prompt in texts]
    distinct = [prompt for prompt in dict.fromkeys(given) if prompt]
    if not distinct:
        raise UnpromptError("there are no prompts to make images from")
    if shard_size is not None and shard_size < 1:
        raise UnpromptError(f"cannot make shards of {shard_size} images; ask for 1 or more")
    settings = {"generator": backend.name, "seed": seed, "format": format, **backend.settings}
    if shard_size is not None:
        settings["shard_size"] = shard_size
    if not has_settings(folder / _SETTINGS, settings):
        write_settings(folder / _SETTINGS, settings)

    if share[1] == 1:
        clear_temporary(folder)
    jobs = list(_jobs(distinct, images_per_prompt, seed))
    failed = {job.id: reason for job in jobs if (reason := _unwritable(job.prompt))}
    possible = [job for job in jobs if job.id not in failed]
    rows = finished_rows(folder, {job.id for job in possible})
    # A share consists of whole shards, or of whole batches if there are no shards.
    pieces = _cut(possible, shard_size or backend.batch_size)
    if shard_size is not None:
        check_shards(folder, [[job.id for job in piece] for piece in pieces], rows)
    mine = range(share[0], len(pieces), share[1])
    missing = sum(job.id not in rows for number in mine for job in pieces[number])
    found = sum(len(pieces[number]) for number in mine) - missing

    def images() -> Iterator[tuple[Job, Image.Image | UnpromptError]]:
        for number in mine:
            for batch in _cut(pieces[number], backend.batch_size):
                wanted = {job.id for job in batch if job.id not in rows}
                drawn = zip(batch, backend.draw(batch), strict=True) if wanted else ()
                yield from (each for each in drawn if each[0].id in wanted)
            if shard_size is not None:
                held = [rows[job.id] for job in pieces[number] if job.id in rows]
                written = write_shard(folder, number, held)
                record(folder, share[0], written)
                for row in filter(is_single_file, held):
                    (folder / row["file"]).unlink()
                rows.update((row["id"], row) for row in written)

    made = 0
    for job, image in track(images(), "generating", total=missing):
        if isinstance(image, UnpromptError):
            failed[job.id] = str(image)
            continue
        rows[job.id] = _save(job, image, folder, backend, format)
        record(folder, share[0], [rows[job.id]])
        made += 1
    write_table(folder, [job.id for job in jobs], len(failed), shard_size is not None)
    warnings = {prompt: text for prompt in distinct if (text := backend.warn(prompt))}
    return Generation(folder / TABLE, made, found, failed, len(given) - len(distinct), warnings)


def _cut(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def _jobs(prompts: Sequence[str], images_per_prompt: int, seed: int) -> Iterator[Job]:
    for prompt in prompts:
        for index in range(images_per_prompt):
            yield Job(prompt, prompt_id(prompt), index, image_seed(prompt, index, seed))


def _unwritable(prompt: str) -> str | None:
    """Why a prompt cannot be written into a file, or None."""
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
