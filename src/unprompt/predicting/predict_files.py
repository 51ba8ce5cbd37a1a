"""Predict the prompts of image files, and write them to a file or to standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from unprompt.errors import UnpromptError
from unprompt.files import format_of, output_stream
from unprompt.images import find_images, no_images_error
from unprompt.predicting.answer import Answer
from unprompt.predicting.output import write_answers
from unprompt.predicting.predictor import Predictor
from unprompt.predicting.watch import new_images
from unprompt.predicting.write_sidecar import Sidecars, write_sidecars
from unprompt.progress import track


@dataclass
class PredictCounts:
    """Counts of a run of `predict_files`.

    Attributes:
        images: number of images.
        failed: number of images without a prompt.
        sidecars: counts of the files beside the images; None if none were written.
    """

    images: int = 0
    failed: int = 0
    sidecars: Sidecars = field(default_factory=Sidecars)


def predict_files(
    predictor: Predictor,
    images: Iterable[str | Path] = (),
    output: str | Path | None = None,
    form: str | None = None,
    *,
    recursive: bool = False,
    watch: str | Path | None = None,
    interval: float = 1.0,
    sidecars: bool = False,
    overwrite: bool = False,
    raw_csv: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> PredictCounts:
    """Predict prompts and write them in the order of the images.

    Args:
        predictor: predicts the prompts.
        images: image files, folders or glob patterns.
        output: file to write, whole or not at all; standard output by default.
        form: one of `unprompt.predicting.output.FORMATS`; by default the format of the suffix of
            ``output``, see `unprompt.files.format_of`.
        recursive: search sub-folders too.
        watch: a folder to watch for new images after ``images`` are done, until Ctrl-C.
        interval: seconds between two listings of the watched folder.
        sidecars: write each answer beside its image, see `write_sidecars`.
        overwrite: let sidecars replace files that unprompt did not write.
        raw_csv: as for `write_answers`.
        note: called with a line for each image that fails, and for the start and end of watching.

    Raises:
        UnpromptError: there is neither an image nor a folder to watch; or see `Predictor`.
        OutputError: the file cannot be written.
    """
    images, batch_size = list(images), predictor.options.batch_size
    form = format_of(output, form)
    if not images and not watch:
        raise UnpromptError("name images or folders, or a folder to --watch")
    # Images that are in the folder now are not new.
    coming = new_images(watch, interval, recursive) if watch else iter(())
    files = find_images(images, recursive)
    # The watched folder may list an image of `images` again, so all of those are remembered.
    first = list(files if watch else islice(files, batch_size + 1))
    if images and not first:
        raise no_images_error(images, recursive)
    if watch and predictor.options.route != "read":
        _ = predictor.model  # load now, so that errors come at once and no image waits
    if watch:
        note(f"watching {watch}; Ctrl-C ends")
    encoder = predictor.model.encoder if form == "kaggle" else ""
    counts = PredictCounts()
    named = frozenset(first)
    later = ([path for path in batch if path not in named] for batch in coming)
    batches = chain([chain(first, files)], later)
    answers: Iterator[Answer] = (one for batch in batches for one in predictor.stream(batch))
    if sidecars:
        answers = write_sidecars(answers, counts.sidecars, overwrite)
    with output_stream(output) as file:
        written = write_answers(_counted(answers, counts, note), file, form, encoder, raw_csv)
        if len(first) > batch_size and not watch:
            total = lambda: sum(1 for _ in find_images(images, recursive))  # noqa: E731
            written = track(written, "Predicting", total)
        try:
            for _ in written:
                if watch:
                    file.flush()
        except KeyboardInterrupt:
            if not watch:
                raise
            note(f"stopped watching {watch}; {counts.images} images answered")
    return counts


def _counted(
    answers: Iterable[Answer], counts: PredictCounts, note: Callable[[str], None]
) -> Iterator[Answer]:
    for answer in answers:
        counts.images += 1  # before writing: Ctrl-C may come as soon as the last line is shown
        if answer.error:
            counts.failed += 1
            note(f"{answer.file}: {answer.error}")
        yield answer
