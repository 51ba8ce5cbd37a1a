from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from tests.evaluating.conftest import COUNT
from unprompt.errors import TableError
from unprompt.evaluating.evaluation import evaluate, reference_of
from unprompt.evaluating.metrics import cosines, mean_with_interval
from unprompt.evaluating.text_report import print_evaluation
from unprompt.pairs.table import PairsTable


@pytest.fixture(scope="module")
def evaluation(model, table_file):
    from unprompt.pairs.table import load

    table = load(table_file)
    return evaluate(model, table, "test", reference_of(model, table.of_split("train")), 5)


def embed(model, table: PairsTable) -> tuple[np.ndarray, np.ndarray]:
    """One image at a time, without the project's batches and threads."""
    size = 2 * model.preprocessing.size
    outputs = [
        model.run(model.preprocessing(table.open_image(row, size))[None])
        for row in range(len(table))
    ]
    return np.vstack([e for e, _ in outputs]), np.vstack([f for _, f in outputs])


def test_the_model_is_measured_on_the_split_in_order(evaluation, model, table):
    test = table.of_split("test")
    assert evaluation.pairs.column("id") == test.column("id")
    predicted, _ = embed(model, test)
    np.testing.assert_allclose(evaluation.predicted, predicted, atol=1e-5)
    np.testing.assert_allclose(evaluation.true, test.embeddings)
    values = cosines(predicted, test.embeddings)
    np.testing.assert_allclose(evaluation.model.values, values, atol=1e-5)
    score = mean_with_interval(values, np.array(test.column("group")))
    assert evaluation.model.overall.mean == pytest.approx(score.mean, abs=1e-5)
    assert evaluation.model.overall.low == pytest.approx(score.low, abs=1e-4)
    assert evaluation.failures == []
    assert evaluation.images_per_second > 0


def test_scores_per_source(evaluation, table):
    test = table.of_split("test")
    sources = np.array([source or "unknown" for source in test.column("source")])
    assert set(evaluation.model.per_source) == {"[/b]one", "two", "unknown"}
    for result in (evaluation.model, *evaluation.baselines):
        for source, score in result.per_source.items():
            assert score.mean == pytest.approx(result.values[sources == source].mean())
            assert score.count == (sources == source).sum()
        assert sum(score.count for score in result.per_source.values()) == COUNT["test"]


def test_baselines_are_those_by_brute_force(evaluation, model, table):
    train, test = table.of_split("train"), table.of_split("test")
    mean, random, neighbours = evaluation.baselines
    assert mean.name == "mean training embedding"
    centre = train.embeddings.mean(axis=0)
    np.testing.assert_allclose(
        mean.values,
        [np.dot(centre, t) / np.linalg.norm(centre) for t in test.embeddings],
        atol=1e-3,
    )
    # Each guess is the prompt of some training pair, and not always the same.
    among = cosines(
        np.repeat(train.embeddings, len(test), axis=0), np.tile(test.embeddings, (24, 1))
    )
    among = among.reshape(len(train), len(test))
    rows = np.abs(among - random.values).argmin(axis=0)
    np.testing.assert_allclose(among[rows, range(len(test))], random.values, atol=1e-9)
    assert len(set(rows)) > 3
    known, asked = embed(model, train)[1], embed(model, test)[1]
    expected = []
    for features, true in zip(asked, test.embeddings, strict=True):
        similar = [
            np.dot(features, k) / np.linalg.norm(features) / np.linalg.norm(k) for k in known
        ]
        guess = train.embeddings[np.argsort(similar)[::-1][:10]].mean(axis=0)
        expected.append(np.dot(guess, true) / np.linalg.norm(guess) / np.linalg.norm(true))
    assert neighbours.name == "kNN over backbone features (k = 10)"
    np.testing.assert_allclose(neighbours.values, expected, atol=1e-3)


def test_few_training_pairs_are_all_neighbours(model, table):
    few = reference_of(model, table.of_split("train").take(range(4)))
    found = evaluate(model, table, "val", few)
    mean, _, neighbours = found.baselines
    assert neighbours.name.endswith("(k = 4)")
    np.testing.assert_allclose(neighbours.values, mean.values, atol=1e-6)


def test_the_whole_table_where_no_split_is_named(model, table):
    found = evaluate(model, table, None)
    assert found.model.overall.count == sum(COUNT.values())
    assert found.split is None
    assert found.baselines == []
    bare = PairsTable(table.data.drop_columns(["split", "group"]), table.root, table.name)
    assert evaluate(model, bare, None).model.overall.mean == found.model.overall.mean
    with pytest.raises(TableError, match="no row of the split 'test'; run: unprompt split"):
        evaluate(model, bare, "test")


def test_prompts_are_encoded_where_embeddings_are_missing(model, table):
    from unprompt.encoding import encode

    bare = table.of_split("val").with_columns({"embedding": [None] * COUNT["val"]})
    found = evaluate(model, bare, None)
    expected = encode(bare.prompts, model.encoder, precision="fp32")
    np.testing.assert_allclose(found.true, expected, atol=1e-6)
    assert found.true.shape == (COUNT["val"], 384)


def broken(table: PairsTable, folder, bad: set[int]) -> PairsTable:
    for row, file in enumerate(table.column("file")):
        content = (table.root / file).read_bytes()
        (folder / file).write_bytes(content[:40] if row in bad else content)
    return PairsTable(table.data, folder, table.name)


def test_an_image_that_cannot_be_decoded_is_reported_and_passed_over(tmp_path, model, table):
    test = table.of_split("test")
    found = evaluate(model, broken(test, tmp_path, {0, 7}), None, batch_size=3)
    assert found.model.overall.count == COUNT["test"] - 2
    assert len(found.failures) == 2
    for failure, row in zip(found.failures, (0, 7), strict=True):
        assert f"row {row + 1}: image '{test.column('file')[row]}'" in failure
    kept = [row for row in range(12) if row not in (0, 7)]
    whole = evaluate(model, test, None)
    np.testing.assert_allclose(found.model.values, whole.model.values[kept], atol=1e-5)
    assert found.pairs.column("id") == [test.column("id")[row] for row in kept]


def test_nothing_that_can_be_decoded(tmp_path, model, table):
    val = broken(table.of_split("val"), tmp_path, set(range(8)))
    with pytest.raises(TableError, match="none of the 8 images can be decoded"):
        evaluate(model, val, None)


def test_the_form_for_json(evaluation):
    found = json.loads(json.dumps(evaluation.to_dict()))
    assert found["failures"] == []
    assert found["text_scores"] is None
    assert found["model"]["recall"].keys() == {"1", "5", "10"}
    assert found["model"]["percentiles"]["50"] == pytest.approx(
        np.median(evaluation.model.values), abs=1e-4
    )
    assert found["split"] == "test"
    assert found["model"]["cosine"] == pytest.approx(evaluation.model.overall.mean, abs=1e-4)
    low, high = found["model"]["interval"]
    assert low < found["model"]["cosine"] < high
    assert found["model"]["pairs"] == 12
    assert len(found["baselines"]) == 3
    assert found["baselines"][0]["per_source"]["two"]["pairs"] == 4


def test_the_table_in_the_terminal_shows_every_score(evaluation):
    console = Console(file=io.StringIO(), width=200)
    print_evaluation(evaluation, console)
    text = console.file.getvalue()
    for name in ("[/b]one", "two", "unknown", "mean training embedding", "kNN over backbone"):
        assert name in text
    assert f"{evaluation.model.overall.mean:.3f}" in text
    assert "95 % interval" in text
    assert "images/s" in text
    assert "decoded" not in text


def test_scores_per_length_of_prompt(model, table):
    val = table.of_split("val")
    lengths = [1, 5, 6, 10, 11, 21, 40, 41]
    prompts = ["word " * length for length in lengths]
    found = evaluate(model, val.with_columns({"prompt": prompts}), None).model
    assert {name: score.count for name, score in found.per_length.items()} == {
        "1 to 5": 2,
        "6 to 10": 2,
        "11 to 20": 1,
        "21 to 40": 2,
        "over 40": 1,
    }
    assert found.per_length["over 40"].mean == pytest.approx(found.values[7])
    assert found.percentiles == {
        percent: pytest.approx(np.percentile(found.values, percent))
        for percent in (5, 25, 50, 75, 95)
    }


def test_two_models_on_the_same_pairs(evaluation, model, table):
    assert evaluation.better_than(evaluation).mean == 0
    other = evaluate(model, table, "val")
    with pytest.raises(TableError, match="not measured on the same pairs"):
        evaluation.better_than(other)
