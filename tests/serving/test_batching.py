"""Images of many requests share the model's batches, and no client takes all of the machine."""

import asyncio
import io
import time
from pathlib import Path
from threading import Event

import pytest
from PIL import Image

from unprompt.predicting.predictor import Predictor
from unprompt.serving.batching import LARGE, Batcher, BusyError, TooManyPixelsError


class Gated(Predictor):
    """A predictor whose model and decoder start when they are let; it notes the batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.begun, self.gate, self.decoder_gate = Event(), Event(), Event()
        self.decoder_gate.set()

    def decode(self, image, answer):  # type: ignore[no-untyped-def, override]
        assert self.decoder_gate.wait(30)
        return super().decode(image, answer)

    def complete(self, prepared):  # type: ignore[no-untyped-def, override]
        self.sizes.append(len(prepared))
        self.begun.set()
        assert self.gate.wait(30)
        return super().complete(prepared)


@pytest.fixture
def gated():
    predictor = Gated()
    yield predictor
    predictor.gate.set()
    predictor.decoder_gate.set()


@pytest.fixture(scope="module")
def huge() -> bytes:
    """A small file of 98 million pixels."""
    file = io.BytesIO()
    Image.new("1", (9900, 9900)).save(file, "png")
    return file.getvalue()


def test_answers_are_the_predictors_under_their_names(
    predictor: Predictor, picture: bytes, stated: bytes
) -> None:
    batcher = Batcher(predictor)
    images = [("a.png", picture), ("b.png", stated), ("c.png", b"no image")]
    answers = asyncio.run(batcher.predict(images))
    assert [answer.file for answer in answers] == ["a.png", "b.png", "c.png"]
    for answer, (_, data) in zip(answers, images, strict=True):
        assert answer.to_dict() | {"file": "image"} == predictor.predict(data).to_dict()
    batcher.close()


def test_images_that_came_during_a_batch_share_the_next(gated: Gated, picture: bytes) -> None:
    async def run() -> list[str]:
        batcher = Batcher(gated, batch_size=4)
        first = asyncio.create_task(batcher.predict([("first", picture)]))
        await asyncio.to_thread(gated.begun.wait, 30)
        others = [asyncio.create_task(batcher.predict([(name, picture)])) for name in "abcdef"]
        while len(batcher._prepared) < 6:
            await asyncio.sleep(0.01)
        gated.gate.set()
        return [answer.file for task in (first, *others) for answer in await task]

    assert asyncio.run(run()) == ["first", *"abcdef"]
    assert gated.sizes == [1, 4, 2]


def test_a_stated_prompt_waits_neither_for_decoder_nor_for_model(
    gated: Gated, picture: bytes, stated: bytes
) -> None:
    gated.decoder_gate.clear()

    async def run() -> None:
        batcher = Batcher(gated)
        others = asyncio.create_task(batcher.predict([("a", picture)] * 32))
        (answer,) = await asyncio.wait_for(batcher.predict([("b", stated)]), 30)
        assert answer.route == "read"
        assert not others.done()
        gated.decoder_gate.set()
        await asyncio.to_thread(gated.begun.wait, 30)
        (answer,) = await asyncio.wait_for(batcher.predict([("b", stated)]), 30)
        assert answer.route == "read"
        assert not others.done()
        gated.gate.set()
        assert len(await others) == 32

    asyncio.run(run())


def test_too_many_images_are_refused_whole(gated: Gated, picture: bytes) -> None:
    async def run() -> None:
        batcher = Batcher(gated, waiting=3)
        first = asyncio.create_task(batcher.predict([("first", picture)]))
        await asyncio.to_thread(gated.begun.wait, 30)
        with pytest.raises(BusyError, match="1 images wait already"):
            await batcher.predict([(name, picture) for name in "abc"])
        gated.gate.set()
        assert (await first)[0].prompt
        assert len(await batcher.predict([(name, picture) for name in "abc"])) == 3

    asyncio.run(run())
    assert gated.sizes[0] == 1


def test_too_many_pixels_are_refused(gated: Gated, picture: bytes, huge: bytes) -> None:
    gated.decoder_gate.clear()
    gated.gate.set()

    async def run() -> None:
        batcher = Batcher(gated)
        with pytest.raises(TooManyPixelsError, match="392,040,000 pixels; at most 300,000,000"):
            await batcher.predict([("huge", huge)] * 4)
        first = asyncio.create_task(batcher.predict([("huge", huge)] * 3))
        while batcher._pixels != 3 * 9900**2:
            await asyncio.sleep(0.01)
        with pytest.raises(BusyError, match="392,040,000 pixels wait already"):
            await batcher.predict([("huge", huge)] * 2)
        gated.decoder_gate.set()
        assert all(answer.prompt for answer in await first)
        assert batcher._pixels == 0

    asyncio.run(run())


def test_pixels_of_smaller_images_count_too(gated: Gated) -> None:
    gated.decoder_gate.clear()
    gated.gate.set()
    file = io.BytesIO()
    Image.new("1", (4096, 4096)).save(file, "png")

    async def run() -> None:
        batcher = Batcher(gated)
        first = asyncio.create_task(batcher.predict([("a", file.getvalue())] * 17))
        while batcher._pixels != 17 * LARGE:
            await asyncio.sleep(0.01)
        with pytest.raises(BusyError, match="pixels wait already"):
            await batcher.predict([("b", file.getvalue())] * 8)
        gated.decoder_gate.set()
        assert all(answer.prompt for answer in await first)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_large_images_are_decoded_one_at_a_time(huge: bytes) -> None:
    class Counting(Predictor):
        now = most = 0

        def decode(self, image, answer):  # type: ignore[no-untyped-def, override]
            self.now += 1
            self.most = max(self.most, self.now)
            time.sleep(0.1)
            self.now -= 1
            return answer, None

    predictor = Counting()
    asyncio.run(Batcher(predictor).predict([("a.png", huge)] * 3))
    assert predictor.most == 1


def test_jpegs_count_at_the_scale_they_are_decoded_at(predictor: Predictor) -> None:
    file = io.BytesIO()
    Image.new("L", (9900, 9900)).save(file, "jpeg")
    answers = asyncio.run(Batcher(predictor).predict([("a.jpg", file.getvalue())] * 16))
    assert all(answer.prompt for answer in answers)


def test_a_failure_reaches_its_requests(tmp_path: Path, picture: bytes) -> None:
    batcher = Batcher(Predictor(tmp_path / "missing", route="embed"))
    for _ in range(2):
        with pytest.raises(Exception, match="missing"):
            asyncio.run(batcher.predict([("a.png", picture)]))
    batcher.close()


def test_a_failure_of_the_model_reaches_its_requests(picture: bytes) -> None:
    class Failing(Predictor):
        def complete(self, prepared):  # type: ignore[no-untyped-def, override]
            raise MemoryError("no memory for the model")

    batcher = Batcher(Failing())
    for _ in range(2):
        with pytest.raises(MemoryError, match="no memory for the model"):
            asyncio.run(batcher.predict([("a.png", picture)]))
    batcher.close()
