"""Images of many requests share the model's batches."""

from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from unprompt.predicting.predictor import Predictor
from unprompt.serving.batching import Batcher, BusyError


class Gated(Predictor):
    """A predictor that begins a batch when it is let, and remembers how large it was."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.begun, self.gate = Event(), Event()

    def predict(self, images):  # type: ignore[no-untyped-def, override]
        self.sizes.append(len(images))
        self.begun.set()
        assert self.gate.wait(30)
        return super().predict(images)


@pytest.fixture
def gated():
    predictor = Gated()
    yield predictor
    predictor.gate.set()


def test_answers_are_the_predictors_under_the_names_asked_for(
    predictor: Predictor, picture: bytes, stated: bytes
) -> None:
    batcher = Batcher(predictor)
    futures = batcher.submit([("a.png", picture), ("b.png", stated), ("c.png", b"no image")])
    answers = [future.result(30) for future in futures]
    assert [answer.file for answer in answers] == ["a.png", "b.png", "c.png"]
    assert answers[:2] == [
        replace(predictor.predict(picture), file="a.png"),
        replace(predictor.predict(stated), file="b.png"),
    ]
    assert answers[2].error == "not an image, or of no supported format"
    batcher.close()


def test_what_came_during_a_batch_shares_the_next(gated: Gated, picture: bytes) -> None:
    batcher = Batcher(gated, batch_size=4)
    futures = batcher.submit([("first", picture)])
    assert gated.begun.wait(30)
    for name in "abcdef":
        futures += batcher.submit([(name, picture)])
    gated.gate.set()
    assert [future.result(30).file for future in futures] == ["first", *"abcdef"]
    assert gated.sizes == [1, 4, 2]
    batcher.close()


def test_a_request_that_finds_no_room_is_refused_whole(gated: Gated, picture: bytes) -> None:
    batcher = Batcher(gated, waiting=2)
    futures = batcher.submit([("first", picture)])
    assert gated.begun.wait(30)
    with pytest.raises(BusyError, match="2 images wait already"):
        batcher.submit([(name, picture) for name in "abc"])
    gated.gate.set()
    assert futures[0].result(30).prompt
    batcher.close()
    assert sum(gated.sizes) == 1


def test_what_waits_is_answered_before_the_end(gated: Gated, picture: bytes) -> None:
    batcher = Batcher(gated, batch_size=2)
    futures = batcher.submit([(str(number), picture) for number in range(5)])
    gated.gate.set()
    batcher.close()
    assert all(future.done() and future.result().prompt for future in futures)


def test_a_failure_reaches_its_requests(tmp_path: Path, picture: bytes) -> None:
    batcher = Batcher(Predictor(tmp_path / "missing", route="embed"))
    for _ in range(2):
        (future,) = batcher.submit([("a.png", picture)])
        with pytest.raises(Exception, match="missing"):
            future.result(30)
    batcher.close()
