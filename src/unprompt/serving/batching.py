"""A thread that answers the requests of all clients in common batches."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import Empty, Full, Queue
from threading import Thread
from typing import NamedTuple

from unprompt.errors import UnpromptError
from unprompt.predicting.answer import Answer
from unprompt.predicting.predictor import Predictor


class BusyError(UnpromptError):
    """Too many images wait; the client can try again later."""


class _Request(NamedTuple):
    name: str
    data: bytes
    future: Future[Answer]


class Batcher:
    """Runs a predictor in one thread, on all images that arrived while the last batch ran.

    It does not wait for a batch to fill: a single image is answered alone, and batches grow with
    the load.

    Args:
        predictor: is used by this thread only.
        batch_size: largest number of images in a batch.
        waiting: largest number of waiting images.
    """

    def __init__(self, predictor: Predictor, batch_size: int = 16, waiting: int = 256):
        self._predictor = predictor
        self._batch_size = batch_size
        self._queue: Queue[_Request | None] = Queue(waiting)
        self._thread = Thread(target=self._work, name="unprompt-batches", daemon=True)
        self._thread.start()

    def submit(self, images: Sequence[tuple[str, bytes]]) -> list[Future[Answer]]:
        """Request the prompts of images, each a name and an encoded file.

        Raises:
            BusyError: the queue has no space for all of them. None of them is answered.
        """
        futures: list[Future[Answer]] = []
        try:
            for name, data in images:
                futures.append(Future())
                self._queue.put_nowait(_Request(name, data, futures[-1]))
        except Full:
            for future in futures:
                future.cancel()
            raise BusyError(f"{self._queue.maxsize} images wait already; try again later") from None
        return futures

    def close(self) -> None:
        """Answer all waiting images, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first, *self._waiting()]
            self._answer([item for item in batch if item.future.set_running_or_notify_cancel()])

    def _waiting(self) -> list[_Request]:
        """Waiting images that fit into a batch beside its first image."""
        batch: list[_Request] = []
        while len(batch) < self._batch_size - 1:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if item is None:
                self._queue.put(None)
                break
            batch.append(item)
        return batch

    def _answer(self, batch: list[_Request]) -> None:
        try:
            answers = self._predictor.predict([item.data for item in batch])
        except Exception as error:  # every kind is raised in the waiting requests
            for item in batch:
                item.future.set_exception(error)
            return
        for item, answer in zip(batch, answers, strict=True):
            item.future.set_result(replace(answer, file=item.name))
