"""Prepare images in threads and run a model on them in batches, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import islice
from threading import Event, Lock
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from unprompt.errors import UnpromptError
from unprompt.parallel import cores
from unprompt.predicting.embedding_model import EmbeddingModel, OnnxModel

DECODING_THREADS = min(4, cores())

Label = TypeVar("Label")
Opener = Callable[[], Image.Image]
"""Opens and decodes one image; raises `UnpromptError` if it cannot be decoded."""
Prepared = tuple[Label, np.ndarray | None]
"""A label, and the pixels of one image, uint8 of shape (3, size, size), or None."""
Finished = tuple[Label, tuple[Any, ...] | None]
"""A label, and the image's row of a model's outputs, or None."""


def embed_images(
    model: EmbeddingModel, openers: Iterable[Opener], batch_size: int = 16
) -> Iterator[tuple[Any, ...] | UnpromptError]:
    """Run a model on images.

    Yields:
        For each image, in order, its row of the outputs of `EmbeddingModel.run`, or the error if it
        could not be decoded.
    """

    def prepare(opener: Opener) -> Prepared[UnpromptError | None]:
        try:
            return None, model.preprocessing(opener())
        except UnpromptError as error:
            return error, None

    preparations = (partial(prepare, opener) for opener in openers)
    batches = run_batches(model.run, preparations, batch_size, lambda: may_overlap(model))
    for error, output in batches:
        if error is not None:
            yield error
        if output is not None:
            yield output


def may_overlap(model: EmbeddingModel) -> bool:
    """Whether two batches may run at once; torch would need twice the memory and gain no speed."""
    return isinstance(model, OnnxModel)


def run_batches(
    run: Callable[[np.ndarray], tuple[Any, ...]],
    preparations: Iterable[Callable[[], Prepared[Label]]],
    batch_size: int,
    may_overlap: Callable[[], bool] = lambda: False,
) -> Iterator[Finished[Label]]:
    """Prepare pixels in threads, ahead of the model, and run the model on them in batches.

    Args:
        run: see `EmbeddingModel.run`.
        preparations: each returns a label and the pixels of one image; None for the pixels if the
            model is not needed.
        batch_size: items in a batch; at most three batches are held at a time.
        may_overlap: whether two batches may run at the same time, to use cores that one batch
            leaves idle; called when the first pixels are ready.

    Yields:
        For each item, in order, its label and its row of the outputs of ``run``; None for the row
        if there were no pixels.
    """
    remaining = iter(preparations)
    stopped, one_at_a_time = Event(), Lock()

    def finish(preparing: list[Future[Prepared[Label]]]) -> list[Finished[Label]]:
        prepared = [future.result() for future in preparing]
        batch = [pixels for _, pixels in prepared if pixels is not None]
        rows: Iterator[tuple[Any, ...]] = iter(())
        if batch:
            with nullcontext() if may_overlap() else one_at_a_time:
                if stopped.is_set():
                    return []
                rows = zip(*run(np.stack(batch)), strict=True)
        return [(label, None if pixels is None else next(rows)) for label, pixels in prepared]

    with ThreadPoolExecutor(DECODING_THREADS) as decoding, ThreadPoolExecutor(2) as running:

        def batches() -> Iterator[Future[list[Finished[Label]]]]:
            while items := [decoding.submit(item) for item in islice(remaining, batch_size)]:
                yield running.submit(finish, items)

        coming = batches()
        held = deque(islice(coming, 3))
        try:
            while held:
                yield from held.popleft().result()
                held.extend(islice(coming, 1))
        finally:
            # If the caller stops early, only the batch that is running is finished.
            stopped.set()
