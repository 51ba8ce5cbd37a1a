from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from unprompt.encoding import DEFAULT_ENCODER, encode
from unprompt.errors import UnpromptError
from unprompt.evaluating.metrics import cosines
from unprompt.models.heads import ClassesHead, HeadConfig, Memory
from unprompt.training.head.classes import (
    CONTENT_GAINS,
    PENALTIES,
    PRIOR_GAINS,
    HeadData,
    class_names,
    fit_classes,
    fit_classes_head,
    name_embeddings,
    set_classes,
)
from unprompt.training.head.memory import fit_memory
from unprompt.training.head.ridge import Moments, ridges

WIDTH, DIM, EACH = 8, 16, 60
SOURCES = ("a", "b", "c", "d")


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def data(seed: int = 0, repeats: int = 1) -> HeadData:
    """Sources with templates of their own over things that all of them show."""
    random = np.random.default_rng(seed)
    things = random.normal(size=(DIM,)) + 2 * random.normal(size=(10, DIM))
    prior = random.normal(size=DIM)
    rows = []
    for source in SOURCES:
        template = random.normal(size=DIM)
        for number in range(EACH * (repeats if source == "a" else 1)):
            thing = random.integers(10)
            feature = random.normal(size=WIDTH)
            rows.append((feature, things[thing], prior + template + things[thing], source, number))
    features, content, targets, sources, numbers = zip(*rows, strict=True)
    prompts = [f"{s} {n % EACH}" for s, n in zip(sources, numbers, strict=True)]
    return HeadData(
        np.array(features), np.array(content), unit(np.array(targets)), sources, prompts, prior
    )


def test_names_are_first_lemmas():
    names = class_names(1000)
    assert len(names) == 1000
    assert names[:3] == ["tench", "goldfish", "great white shark"]
    with pytest.raises(UnpromptError, match=r"no ImageNet has 7 classes.*model\.head\.type"):
        class_names(7)


def test_a_name_is_nearest_to_its_own_thing_and_prompts_move_it():
    names = ["cat", "volcano", "trombone"]
    texts = ["a fluffy kitten on a sofa", "lava and ash", "a brass instrument"]
    asked = unit(encode(texts, DEFAULT_ENCODER))
    plain = name_embeddings(names, DEFAULT_ENCODER)
    moved = name_embeddings(names, DEFAULT_ENCODER, asked[:1])
    assert (asked @ plain.T).argmax(axis=1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(plain.mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(plain, axis=1).mean() == pytest.approx(1, abs=1e-5)
    assert np.isfinite(moved).all()


def test_what_is_left_out_is_predicted_by_content_and_usual_prompt():
    given = data()
    fit = fit_classes(given)
    assert fit.content_gain > 0
    assert fit.prior_gain > 0
    alone = cosines(np.tile(given.prior, (len(given.targets), 1)), given.targets).mean()
    assert fit.score > alone + 0.1


def test_content_and_usual_prompt_that_say_nothing_are_given_no_weight():
    given = data()
    noise = np.random.default_rng(1).normal(size=given.content.shape)
    blind = replace(given, content=noise, prior=-given.prior)
    fit = fit_classes(blind)
    assert fit.content_gain == 0
    assert fit.prior_gain == 0


def test_sources_count_alike_and_so_do_their_prompts():
    once, often = fit_classes(data()), fit_classes(data())
    given = data()
    again = np.flatnonzero(np.array(given.sources) == "a")
    rows = np.concatenate([np.arange(len(given.targets)), again, again])
    often = fit_classes(
        HeadData(
            given.features[rows],
            given.content[rows],
            given.targets[rows],
            [given.sources[row] for row in rows],
            [given.prompts[row] for row in rows],
            given.prior,
        )
    )
    np.testing.assert_allclose(often.weights.weight, once.weights.weight, atol=1e-9)
    np.testing.assert_allclose(often.weights.bias, once.weights.bias, atol=1e-9)


def test_one_source_cannot_be_left_out():
    given = data()
    one = HeadData(
        given.features,
        given.content,
        given.targets,
        ["a"] * len(given.targets),
        given.prompts,
        given.prior,
    )
    with pytest.raises(UnpromptError, match="every pair is of the source 'a'"):
        fit_classes(one)


def test_a_taught_head_predicts_and_a_fitted_one_is_the_fit():
    torch.manual_seed(0)
    classifier = nn.Linear(WIDTH, 1000)
    head = ClassesHead(HeadConfig("classes"), WIDTH, 384).eval()
    set_classes(head, classifier, DEFAULT_ENCODER, ["a castle at dusk", "portrait of a knight"])
    given = data()
    features = given.features.astype(np.float32)
    prior = encode(["a castle at dusk", "portrait of a knight"], DEFAULT_ENCODER).mean(axis=0)
    with torch.no_grad():
        before = head(torch.from_numpy(features)) - head.content(torch.from_numpy(features))
        content = head.content(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(before.numpy(), np.tile(prior, (len(features), 1)), atol=1e-5)
    targets = unit(np.random.default_rng(2).normal(size=(len(features), 384))).astype(np.float32)
    fit = fit_classes_head(head, features, targets, given.sources, given.prompts)
    with torch.no_grad():
        after = head(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(after, fit(features, content), atol=1e-4)


def reference(given: HeadData) -> tuple[float, tuple[float, float, float], np.ndarray]:
    """Score, settings and predictions of the best fit, with every row weighed by hand."""

    def weights(sources: list[str]) -> np.ndarray:
        keys = list(zip(given.sources, given.prompts, strict=True))
        found = np.zeros(len(keys))
        for source in sources:
            prompts = {key for key in keys if key[0] == source}
            for key in prompts:
                rows = [row for row, other in enumerate(keys) if other == key]
                found[rows] = 1 / len(sources) / len(prompts) / len(rows)
        return found

    def linear(sources: list[str], penalty: float) -> np.ndarray:
        [fit] = ridges(Moments.of(given.features, given.targets, weights(sources)), [penalty])
        return fit(given.features)

    def predicted(base: np.ndarray, content: float, prior: float) -> np.ndarray:
        return base + content * given.content + prior * given.prior

    best = (-1.0, (0.0, 0.0, 0.0))
    for penalty, content, prior in product(PENALTIES, CONTENT_GAINS, PRIOR_GAINS):
        scores = []
        for source in SOURCES:
            base = linear([other for other in SOURCES if other != source], penalty)
            out = np.array(given.sources) == source
            scores.append(cosines(predicted(base, content, prior)[out], given.targets[out]).mean())
        best = max(best, (float(np.mean(scores)), (penalty, content, prior)))
    score, (penalty, *gains) = best
    return score, (penalty, *gains), predicted(linear(list(SOURCES), penalty), *gains)


def test_settings_are_those_that_score_best_on_sources_left_out():
    given = data(repeats=2)
    rows = np.sort(np.random.default_rng(0).permutation(len(given.targets))[:90])
    given = HeadData(
        given.features[rows],
        given.content[rows],
        given.targets[rows],
        [given.sources[row] for row in rows],
        [given.prompts[row] for row in rows],
        given.prior,
    )
    score, settings, predicted = reference(given)
    fit = fit_classes(given)
    assert (fit.penalty, fit.content_gain, fit.prior_gain) == settings
    assert fit.score == pytest.approx(score, abs=1e-6)
    np.testing.assert_allclose(fit(given.features, given.content), predicted, atol=1e-6)


def test_two_sources_are_enough():
    given = data()
    rows = [row for row, source in enumerate(given.sources) if source in "ab"]
    two = HeadData(
        given.features[rows],
        given.content[rows],
        given.targets[rows],
        [given.sources[row] for row in rows],
        [given.prompts[row] for row in rows],
        given.prior,
    )
    assert fit_classes(two).score > 0


def test_a_name_takes_half_of_the_thirty_prompts_nearest_to_it():
    names, random = ["cat", "volcano", "trombone"], np.random.default_rng(0)
    plain = encode([f"a photo of {name}" for name in names], DEFAULT_ENCODER, precision="fp32")
    prompts = unit(plain[random.integers(3, size=200)] + 0.1 * random.normal(size=(200, 384)))
    near = np.argsort(-plain @ prompts.T, axis=1)[:, :30]

    def centred(rows: np.ndarray) -> np.ndarray:
        away = rows - rows.mean(axis=0)
        return away / np.linalg.norm(away, axis=1).mean()

    around = np.array([prompts[rows].mean(axis=0) for rows in near])
    expected = centred(centred(plain) + centred(around))
    found = name_embeddings(names, DEFAULT_ENCODER, prompts)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_memory_adds_what_the_fitted_head_misses():
    torch.manual_seed(0)
    head = ClassesHead(HeadConfig("classes", landmarks=20), WIDTH, DIM).eval()
    given = data()
    features, targets = given.features.astype(np.float32), given.targets.astype(np.float32)
    fit = fit_classes_head(head, features, targets, given.sources, given.prompts)
    with torch.no_grad():
        general = torch.nn.functional.normalize(
            head.content(torch.from_numpy(features)) + head.linear(torch.from_numpy(features)),
            dim=-1,
        ).numpy()
        expected = Memory(WIDTH, 20, DIM)
        scale = (general * targets).sum(axis=1).mean()
        fit_memory(expected, features, targets / scale - general, given.sources)
    assert fit.score > 0
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(head.memory.state_dict()[name], value, rtol=1e-3, atol=1e-3)
