from __future__ import annotations

import re

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unprompt.curating.clip_tokens import count_tokens
from unprompt.curating.filter import NSFW_WORDS, Rules, filter_pairs
from unprompt.errors import OutputError, TableError, UnpromptError
from unprompt.pairs.table import Pair, PairsTable, load, save


@pytest.fixture
def table(tmp_path):
    def write(prompts, **columns):
        data = {"id": [str(k) for k in range(len(prompts))], "file": ["x.png"] * len(prompts)}
        path = tmp_path / "pairs.parquet"
        pq.write_table(
            pa.table({**data, "prompt": pa.array(prompts, pa.string()), **columns}), path
        )
        return path

    return write


def kept_by(path, tmp_path, **rules) -> list[str]:
    report = filter_pairs(path, tmp_path / "out.parquet", Rules(**rules))
    kept = load(tmp_path / "out.parquet").prompts
    assert report.kept == len(kept)
    assert report.rows - sum(found.count for found in report.dropped.values()) == len(kept)
    return kept


GOOD = "a cat in a hat"
NOTHING = ["", "   ", "\n\t", "NULL", "null", "NaN", " nan ", "None", "N/A", "...", "-", None]


def test_prompts_that_say_nothing_are_dropped(table, tmp_path):
    kept = ["nano banana", "none of your business", "null island", "x", "…a"]
    assert kept_by(table([*NOTHING, *kept]), tmp_path) == kept
    assert len(kept_by(table([*NOTHING, *kept]), tmp_path, blank=False)) == len(NOTHING + kept)


@pytest.mark.parametrize(
    ("rules", "prompts", "kept"),
    [
        ({"min_words": 3}, ["a b", "a b c", "a  b\tc"], [1, 2]),
        ({"max_words": 2}, ["a b", "a b c"], [0]),
        ({"min_chars": 4}, ["cat", "cats", "Käse", "猫猫猫猫"], [1, 2, 3]),
        ({"max_chars": 3}, ["cat", "cats"], [0]),
        ({"ascii_only": True}, ["cat & dog; 50%", "Käse", "cat 🐱", "café"], [0]),
        ({"match": "cat|dog"}, ["a cat", "a cow", "hotdog"], [0, 2]),
        ({"match": "^a"}, ["a cat", "the cat"], [0]),
        ({"no_match": r"(?i)\bdog\b"}, ["a cat", "a DOG", "hotdog"], [0, 2]),
        ({"nsfw_words": tuple(NSFW_WORDS)}, ["Nude woman", "denuded hill", "a cat"], [1, 2]),
        ({"max_tokens": 7}, ["one two three four five", "one two three four five six"], [0]),
        ({"max_aspect": 2.0}, ["a", "b", "c"], [0, 1]),
        ({"min_side": 100}, ["a", "b", "c"], [0, 1]),
    ],
)
def test_each_filter_drops_what_it_says(table, tmp_path, rules, prompts, kept):
    sides = {"width": [200, 100, 300][: len(prompts)], "height": [200, 200, 90][: len(prompts)]}
    columns = sides if {"max_aspect", "min_side"} & {*rules} else {}
    path = table(prompts, **columns)
    assert kept_by(path, tmp_path, **rules) == [prompts[k] for k in kept]


def test_other_languages_are_dropped_where_that_is_sure(table, tmp_path):
    english = [
        "a photo of a cat sitting on a chair in the garden, highly detailed",
        "portrait of an old man by Rembrandt, oil on canvas",
        "Antonio Juez Nieto",
        "cat",
    ]
    others = [
        "ein Bild von einer Katze, die im Garten auf einem Stuhl sitzt",
        "庭の椅子に座っている猫の写真",
    ]
    assert kept_by(table(english + others), tmp_path, language="en") == english
    with pytest.raises(UnpromptError, match="unknown language 'xx'"):
        filter_pairs(table(english), None, Rules(language="xx"))


@settings(max_examples=25)
@given(
    st.lists(st.text("ab é\n.", max_size=12), max_size=30),
    st.integers(0, 4),
    st.integers(4, 8),
)
def test_is_its_plain_python_twin(tmp_path_factory, prompts, least, most):
    folder = tmp_path_factory.mktemp("filter")
    pairs = [Pair(str(k), "x", prompt) for k, prompt in enumerate(prompts)]
    save(PairsTable.from_pairs(pairs, folder), folder / "in.parquet")
    filter_pairs(
        folder / "in.parquet",
        folder / "out.parquet",
        Rules(min_words=least, max_chars=most, ascii_only=True),
    )
    assert load(folder / "out.parquet").prompts == [
        prompt
        for prompt in prompts
        if re.search(r"\w", prompt)
        and len(prompt.split()) >= least
        and len(prompt) <= most
        and prompt.isascii()
    ]


def test_the_report_counts_and_shows_what_each_filter_dropped(table, tmp_path):
    path = table(["", GOOD, "a cat", *(f"b {k}" for k in range(10)), "null"])
    report = filter_pairs(path, None, Rules(min_words=3))
    assert (report.rows, report.kept) == (14, 1)
    assert {name: found.count for name, found in report.dropped.items()} == {
        "blank prompt": 2,
        "fewer than 3 words": 11,
    }
    assert report.dropped["blank prompt"].samples == [(1, ""), (14, "null")]
    assert report.dropped["fewer than 3 words"].samples[0] == (3, "a cat")
    assert len(report.dropped["fewer than 3 words"].samples) == 5
    assert "1 of 14 rows kept" in str(report)
    assert "row 3: 'a cat'" in str(report)
    assert not (tmp_path / "out.parquet").exists()  # nothing is written without an output


def test_images_that_are_broken_blank_or_small_are_dropped(tmp_path):
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "good.png")
    Image.fromarray(draw.integers(0, 255, (20, 64, 3), np.uint8)).save(tmp_path / "low.png")
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "flat.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:500])
    names = ["good.png", "low.png", "flat.png", "broken.png", "gone.png"]
    save(PairsTable.from_pairs([Pair(n, n, GOOD) for n in names], tmp_path), tmp_path / "t.parquet")
    report = filter_pairs(
        tmp_path / "t.parquet", tmp_path / "out.parquet", Rules(images=True, min_side=32)
    )
    assert load(tmp_path / "out.parquet").column("id") == ["good.png"]
    assert report.dropped["image cannot be decoded"].samples == [(4, "broken.png"), (5, "gone.png")]
    assert report.dropped["image of one colour"].samples == [(3, "flat.png")]
    assert report.dropped["image side under 32 pixels"].samples == [(2, "low.png")]
    # Without the images being decoded, one that is not there has no side.
    assert len(kept_by(tmp_path / "t.parquet", tmp_path, min_side=32)) == 3


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"match": "("}, "not a regular expression"),
        ({"no_match": "[a"}, "not a regular expression"),
        ({"min_words": 5, "max_words": 3}, "change one"),
        ({"max_aspect": 0.5}, "at least 1"),
    ],
)
def test_rules_that_make_no_sense_are_refused(table, rules, message):
    with pytest.raises(UnpromptError, match=message):
        filter_pairs(table([GOOD]), None, Rules(**rules))


def test_a_table_of_nothing_gives_a_table_of_nothing(tmp_path):
    save(PairsTable.from_pairs([], tmp_path), tmp_path / "t.parquet")
    assert filter_pairs(tmp_path / "t.parquet", tmp_path / "out.parquet", Rules()).rows == 0
    assert len(load(tmp_path / "out.parquet")) == 0


def test_errors_of_the_table_and_of_the_output(table, tmp_path):
    with pytest.raises(TableError, match="no such"):
        filter_pairs(tmp_path / "gone.parquet", None, Rules())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        filter_pairs(table([GOOD]), tmp_path / "file" / "out.parquet", Rules())


def test_tokens_are_counted_as_clip_does(shared):
    import open_clip

    prompts = (shared / "prompts" / "imagereward_test.txt").read_text("utf-8").splitlines()
    prompts += [
        "",
        "DON'T stop!!! 123 4,5",
        "Ünïcödé 猫 🐱 x" * 3,
        "a" * 400,
        "l'été, it's we'll",
        "a &amp;amp; b â€™",
    ]
    tokenizer = open_clip.SimpleTokenizer()
    wanted = [len(tokenizer.encode(prompt)) + 2 for prompt in prompts]
    assert count_tokens(prompts).tolist() == wanted
    assert max(wanted) > 77 > min(wanted)


def test_many_rows_stream(tmp_path):
    count = 300_000
    frame = pl.DataFrame({"n": range(count)}).select(
        id=pl.col("n").cast(pl.String),
        file=pl.lit("x.png"),
        prompt=pl.when(pl.col("n") % 3 == 0).then(pl.lit(" ")).otherwise(pl.lit("a cat in a hat")),
    )
    frame.write_parquet(tmp_path / "t.parquet")
    report = filter_pairs(tmp_path / "t.parquet", tmp_path / "out.parquet", Rules(min_words=3))
    assert report.kept == len(load(tmp_path / "out.parquet")) == count * 2 // 3
    assert report.dropped["blank prompt"].samples[1][0] == 4
