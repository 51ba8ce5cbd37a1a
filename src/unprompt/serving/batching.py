"""Requests of many clients answered in batches that they share."""

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
    """As many images wait as may; the client had better ask again later."""


class _Asked(NamedTuple):
    name: str
    data: bytes
    future: Future[Answer]


class Batcher:
    """One thread that asks a predictor for whatever came while the last batch ran.

    Nobody waits for a batch to fill: an image that comes alone is answered alone, and under load
    the batches grow by themselves.

    Args:
        predictor: only this thread asks it.
        batch_size: images in a batch, at most.
        waiting: images that may wait for their batch, at most.
    """

    def __init__(self, predictor: Predictor, batch_size: int = 16, waiting: int = 256):
        self._predictor = predictor
        self._batch_size = batch_size
        self._queue: Queue[_Asked | None] = Queue(waiting)
        self._thread = Thread(target=self._work, name="unprompt-batches", daemon=True)
        self._thread.start()

    def submit(self, images: Sequence[tuple[str, bytes]]) -> list[Future[Answer]]:
        """Ask for the prompts of images, each a name and an encoded file.

        Raises:
            BusyError: there is no room for all of them; none of them is answered.
        """
        futures: list[Future[Answer]] = []
        try:
            for name, data in images:
                futures.append(Future())
                self._queue.put_nowait(_Asked(name, data, futures[-1]))
        except Full:
            for future in futures:
                future.cancel()
            raise BusyError(f"{self._queue.maxsize} images wait already; ask again later") from None
        return futures

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first, *self._waiting()]
            self._answer([item for item in batch if item.future.set_running_or_notify_cancel()])

    def _waiting(self) -> list[_Asked]:
        """What fits beside the first image of a batch."""
        batch: list[_Asked] = []
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

    def _answer(self, batch: list[_Asked]) -> None:
        try:
            answers = self._predictor.predict([item.data for item in batch])
        except Exception as error:  # of any kind: it is raised where the requests wait
            for item in batch:
                item.future.set_exception(error)
            return
        for item, answer in zip(batch, answers, strict=True):
            item.future.set_result(replace(answer, file=item.name))
