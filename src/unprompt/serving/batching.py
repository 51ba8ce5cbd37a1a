"""Answers the images of all clients: files are read in threads, and the model runs on batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import numpy as np

from unprompt.errors import UnpromptError
from unprompt.images import pixels_to_decode
from unprompt.parallel import cores
from unprompt.predicting.answer import Answer
from unprompt.predicting.predictor import Predictor

MAX_REQUEST_PIXELS = 300_000_000
"""Most pixels of the images of a request; JPEG counts at the reduced scale it is decoded at."""
MAX_PIXELS = 400_000_000
"""Most pixels of all images that are being decoded or wait for it."""
LARGE = 4096**2
"""Images with more pixels are decoded one at a time, so that memory stays bounded."""

_THREADS = min(4, cores())

Result = TypeVar("Result")


class BusyError(UnpromptError):
    """Too many images wait; the client can try again later."""


class TooManyPixelsError(UnpromptError):
    """The images of one request have too many pixels."""


class Batcher:
    """Answers the images of many requests at the same time, in one event loop.

    A prompt that a file states is read in threads that neither decode nor wait for the model. The
    model runs in one thread on all images that were decoded during its last batch. It does not wait
    for a batch to fill: a single image is answered alone, and batches grow with the load.

    Args:
        predictor: answers.
        batch_size: largest number of images in a batch.
        waiting: largest number of images of all requests.
    """

    def __init__(self, predictor: Predictor, batch_size: int = 16, waiting: int = 256):
        self._predictor = predictor
        self._batch_size = batch_size
        self._waiting = waiting
        self._images = self._pixels = 0
        self._reading = ThreadPoolExecutor(_THREADS)
        self._decoding = ThreadPoolExecutor(_THREADS)
        self._large = ThreadPoolExecutor(1)
        self._model = ThreadPoolExecutor(1)
        self._prepared: list[tuple[Answer, np.ndarray, asyncio.Future[Answer]]] = []
        self._batches: asyncio.Task[None] | None = None

    async def predict(self, images: Sequence[tuple[str, bytes]]) -> list[Answer]:
        """The answer for each image, a name and an encoded file, in order.

        Raises:
            BusyError: too many images or pixels of all requests wait already.
            TooManyPixelsError: the images have more than `MAX_REQUEST_PIXELS` together.
        """
        if self._images + len(images) > self._waiting:
            raise BusyError(f"{self._images} images wait already; try again later")
        self._images += len(images)
        tasks: list[asyncio.Task[Answer]] = []
        try:
            sizes = await _in(self._reading, self._sizes, [data for _, data in images])
            if sum(sizes) > MAX_REQUEST_PIXELS:
                raise TooManyPixelsError(
                    f"the images have {sum(sizes):,} pixels; at most {MAX_REQUEST_PIXELS:,} are "
                    "allowed in a request: send fewer or smaller ones"
                )
            for (name, data), size in zip(images, sizes, strict=True):
                tasks.append(asyncio.create_task(self._answer(name, data, size)))
            return await asyncio.gather(*tasks)
        finally:
            self._images -= len(images)
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        """End the threads after their present work."""
        for threads in (self._reading, self._decoding, self._large, self._model):
            threads.shutdown(cancel_futures=True)

    def _sizes(self, files: Sequence[bytes]) -> list[int]:
        least_side = self._predictor.model.preprocessing.least_side
        return [pixels_to_decode(data, least_side) for data in files]

    async def _answer(self, name: str, data: bytes, size: int) -> Answer:
        large = size > LARGE
        with ExitStack() as reserved:
            if large:  # even reading may decode it, to search its pixels for a hidden text
                reserved.enter_context(self._reserved(size))
            answer, needs_model = await _in(
                self._large if large else self._reading, self._predictor.from_file, data, name
            )
            if not needs_model:
                return answer
            if not large:
                reserved.enter_context(self._reserved(size))
            answer, pixels = await _in(
                self._large if large else self._decoding, self._predictor.decode, data, answer
            )
        return answer if pixels is None else await self._completed(answer, pixels)

    @contextmanager
    def _reserved(self, size: int) -> Iterator[None]:
        if self._pixels + size > MAX_PIXELS:
            raise BusyError(f"images of {self._pixels:,} pixels wait already; try again later")
        self._pixels += size
        try:
            yield
        finally:
            self._pixels -= size

    async def _completed(self, answer: Answer, pixels: np.ndarray) -> Answer:
        future = asyncio.get_running_loop().create_future()
        self._prepared.append((answer, pixels, future))
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._run_batches())
        return await future

    async def _run_batches(self) -> None:
        while self._prepared:
            batch = self._prepared[: self._batch_size]
            del self._prepared[: self._batch_size]
            batch = [item for item in batch if not item[2].done()]
            if not batch:
                continue
            prepared = [(answer, pixels) for answer, pixels, _ in batch]
            try:
                answers = await _in(self._model, self._predictor.complete, prepared)
            except Exception as error:  # every kind is raised in the waiting requests
                for *_, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (*_, future), found in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(found)


async def _in(
    threads: ThreadPoolExecutor, function: Callable[..., Result], *arguments: object
) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)
