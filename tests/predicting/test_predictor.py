"""Routes, order, streaming and bad input."""

import io
import tracemalloc
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import unprompt
from unprompt import Predictor
from unprompt.encoding import encode
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.images import image_name
from unprompt.models.bank.bank import Bank
from unprompt.models.calibration import Calibration
from unprompt.predicting.loading import builtin_folder, load_model
from unprompt.predicting.output import describe_route

from .conftest import picture
from .towers import taught_captioner


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(top_k=3)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A captioner that has learned next to nothing, so that its captions differ."""
    folder = tmp_path_factory.mktemp("hub") / "writer"
    return taught_captioner("git", folder, [picture(0)], ["a red fox in the snow"], steps=2)


def test_a_carried_prompt_is_read_and_the_model_is_not_loaded(carrier: Path) -> None:
    predictor = Predictor()
    answer = predictor.predict(carrier)
    assert (answer.route, answer.prompt) == ("read", "a red fox in the snow")
    assert answer.negative_prompt == "blurry"
    assert answer.settings is not None
    assert answer.settings["seed"] == 7
    assert not [value for value in answer.settings.values() if value in (None, [], {})]
    assert (answer.file, answer.generator) == (str(carrier), "unprompt")
    assert (answer.score, answer.model, answer.embedding, answer.error) == (None,) * 4
    assert predictor._loaded is None


def test_a_guess_from_the_file_is_shown_and_the_model_predicts_too(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a red fox in the snow")  # no settings: it may be no prompt
    path = tmp_path / "x.png"
    picture(0).save(path, pnginfo=info)
    answer = Predictor(top_k=2).predict(path)
    assert (answer.prompt, answer.route, answer.certain) == ("a red fox in the snow", "read", False)
    predicted = Predictor(top_k=2, route="embed").predict(path)
    expected = [(predicted.prompt, predicted.score), *map(astuple, predicted.alternatives)]
    assert [astuple(other) for other in answer.alternatives] == expected
    assert (answer.model, answer.score) == ("builtin", None)
    assert "a best guess" in describe_route(answer)
    alone = Predictor(route="read").predict(path)
    assert (alone.prompt, alone.certain, alone.alternatives) == (answer.prompt, False, ())
    path.write_bytes(path.read_bytes()[:-200])  # its pixels cannot be decoded any more
    assert Predictor(top_k=2).predict(path) == alone


def test_a_model_is_loaded_at_once_where_every_image_needs_it(tmp_path: Path) -> None:
    for route in ("auto", "read"):
        assert list(Predictor(tmp_path, route=route).stream([])) == []
    with pytest.raises(ModelNotFoundError, match="not a model"):
        list(Predictor(tmp_path, route="embed").stream([]))


def test_a_file_that_cannot_be_read_gets_an_answer_and_the_rest_goes_on(carrier: Path) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    answers = list(Predictor(route="read").stream([Failing(b"x"), carrier]))
    assert "Input/output error" in (answers[0].error or "")
    assert answers[1].prompt == "a red fox in the snow"


def test_a_picture_without_a_prompt_is_embedded(predictor: Predictor) -> None:
    answer = predictor.predict(picture(0))
    assert answer.route == "embed+bank"
    assert answer.error is None
    assert (answer.file, answer.model) == (image_name(picture(0)), "builtin")
    assert answer.prompt in predictor.bank.prompts
    assert answer.embedding is not None
    assert np.linalg.norm(answer.embedding) == pytest.approx(1, abs=1e-5)
    assert len(answer.alternatives) == 2
    scores = [answer.score, *(other.score for other in answer.alternatives)]
    assert all(score is not None and -1 <= score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)


def test_the_answer_to_an_embedding_is_that_to_its_image(predictor: Predictor) -> None:
    answer = predictor.predict(picture(0))
    assert answer.embedding is not None
    again = predictor.answer(answer.embedding)
    assert again == replace(answer, file="")
    np.testing.assert_allclose(again.embedding, answer.embedding)


def test_a_captioners_scores_rank_its_alternatives_only(writer: str) -> None:
    for route in ("auto", "caption"):
        predictor = Predictor(writer, route=route, top_k=3)
        answer = predictor.predict(picture(0))
        assert (answer.route, answer.score, answer.model) == ("caption", None, writer)
        assert len(answer.alternatives) == 2
        scores = [other.score or 0 for other in answer.alternatives]
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] > 0
        assert len({answer.prompt, *(other.prompt for other in answer.alternatives)}) == 3
        np.testing.assert_allclose(answer.embedding, encode([answer.prompt or ""])[0], atol=1e-6)
    for ask in (lambda: predictor.bank, lambda: predictor.answer(np.ones(384))):
        with pytest.raises(UnpromptError, match="writes its prompts and has no bank"):
            ask()


def test_a_route_that_the_model_does_not_have_is_refused(writer: str, carrier: Path) -> None:
    for route in ("embed", "decode", "interrogate"):
        with pytest.raises(UnpromptError, match="writes prompts; use route caption"):
            Predictor(writer, route=route).predict(picture(0))
    assert Predictor(writer, route="read").predict(carrier).route == "read"
    with pytest.raises(UnpromptError, match=r"^model builtin is no captioner; name one"):
        Predictor(route="caption").predict(picture(0))
    with pytest.raises(UnpromptError, match=r"^model builtin is no interrogator; name a CLIP"):
        Predictor(route="interrogate").predict(picture(0))


def test_route_embed_does_not_look_at_the_carried_prompt(carrier: Path) -> None:
    assert Predictor(route="embed").predict(carrier).route == "embed+bank"


def test_route_read_says_when_there_is_nothing_to_read() -> None:
    answer = Predictor(route="read").predict(picture(0))
    assert answer.prompt is None
    assert answer.error == "the file carries no prompt"


class Pipe(io.BytesIO):
    """A stream that can be read once, from its start to its end."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")

    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")


@pytest.mark.parametrize("source", ["path", "text", "bytes", "file", "pipe", "image"])
def test_every_source_gives_the_same_answer(
    source: str, good: dict[str, Path], predictor: Predictor
) -> None:
    path = good["plain.png"]
    sources = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "file": io.BytesIO(path.read_bytes()),
        "pipe": Pipe(path.read_bytes()),
        "image": Image.open(path),
    }
    expected = predictor.predict(path)
    assert predictor.predict(sources[source]).prompt == expected.prompt


def test_a_list_of_images_gives_a_list_of_answers(
    good: dict[str, Path], bad: dict[str, Path], predictor: Predictor
) -> None:
    asked = [good["plain.png"], str(bad["text.png"]), picture(0)]
    answers = predictor.predict(asked)
    assert [answer.prompt for answer in answers] == [predictor.predict(one).prompt for one in asked]
    assert predictor.predict(tuple(asked)) == answers
    assert predictor.predict([]) == []


def test_unusual_images_are_answered(good: dict[str, Path]) -> None:
    answers = list(Predictor(batch_size=4).stream(good.values()))
    assert [Path(answer.file).name for answer in answers] == list(good)
    assert [answer.error for answer in answers] == [None] * len(good)


def test_the_first_frame_and_the_upright_picture_count(
    good: dict[str, Path], predictor: Predictor
) -> None:
    def embedding(image: Path | Image.Image) -> np.ndarray:
        found = predictor.predict(image).embedding
        assert found is not None
        return found

    still = embedding(good["plain.webp"])
    assert embedding(good["animated.webp"]) @ still > 0.99
    upright = embedding(picture(0).rotate(-90, expand=True))
    assert embedding(good["rotated.jpg"]) @ upright > 0.98


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.png", "no such file"),
        ("empty.png", "empty"),
        ("text.png", "not an image"),
        ("bomb.png", "pixels"),
        ("truncated.png", "cannot be decoded"),
        ("truncated.jpeg", "cannot be decoded"),
        ("truncated.webp", "cannot be decoded"),
    ],
)
def test_bad_images_are_named_and_passed_over(
    name: str, reason: str, bad: dict[str, Path], good: dict[str, Path], predictor: Predictor
) -> None:
    before, answer, after = predictor.stream([good["plain.png"], bad[name], good["plain.jpg"]])
    assert before.error is None
    assert after.error is None
    assert answer.prompt is None
    assert answer.error is not None
    assert reason in answer.error
    assert str(bad[name]) not in answer.error, "the file is named beside the error already"


def test_many_images_stream_in_order(
    tmp_path: Path, good: dict[str, Path], predictor: Predictor
) -> None:
    one = good["plain.jpg"].read_bytes()
    files = []
    for number in range(480):
        path = tmp_path / f"{number:04}.jpg"
        path.write_bytes(one if number % 10 else b"broken")
        files.append(path)
    taken = 0

    def named() -> object:
        nonlocal taken
        for path in files:
            taken += 1
            yield path

    few = Predictor(batch_size=4, route="read").stream(named())
    next(few)
    assert taken <= 12, "holds more than three batches"
    few.close()
    taken = 0
    answers = predictor.stream(named())
    first = next(answers)
    assert taken <= 48, "holds more than its batches"
    tracemalloc.start()
    rest = [(answer.file, answer.error is None) for answer in answers]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    seen = [(first.file, first.error is None), *rest]
    assert seen == [(str(path), i % 10 != 0) for i, path in enumerate(files)]
    assert peak < 50e6, "pixels of all of them are 72 MB"


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnpromptError, match="must be one of auto, read, embed"):
        Predictor(route="guess")
    with pytest.raises(UnpromptError, match="top_k=0"):
        Predictor(top_k=0)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(ModelNotFoundError, match="not a model"):
        Predictor(model=tmp_path / "hollow").predict(picture(0))


def test_a_bank_of_another_encoder_is_refused(tmp_path: Path) -> None:
    Bank.build(["a cat"], np.ones((1, 384)), "other/encoder").save(tmp_path)
    with pytest.raises(UnpromptError, match="other/encoder"):
        Predictor(bank=tmp_path).predict(picture(0))


def test_a_named_bank_answers(tmp_path: Path) -> None:
    encoder = load_model().encoder
    bank = Bank.build(["the only answer"], np.ones((1, 384)), encoder)
    bank.calibrated(Calibration((0.0,), (0.1,), 10, 0.0)).save(tmp_path)
    answer = Predictor(bank=tmp_path, top_k=5).predict(picture(0))
    assert (answer.prompt, answer.score, answer.alternatives) == ("the only answer", 0.1, ())


def test_the_built_in_model_is_within_its_budget() -> None:
    size = sum(path.stat().st_size for path in builtin_folder().rglob("*") if path.is_file())
    assert size <= 30_000_000
    card = (builtin_folder() / "README.md").read_text(encoding="utf-8")
    for part in ("Licence", "Data", "Score", "cannot"):
        assert part in card


def test_the_function_answers_one_image(carrier: Path, bad: dict[str, Path]) -> None:
    assert unprompt.predict(carrier).prompt == "a red fox in the snow"
    assert unprompt.predict(str(bad["text.png"])).error is not None
