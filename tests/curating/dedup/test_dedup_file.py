"""The verbs filter, dedup, split and convert, as a person calls them."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.curating.dedup.test_deduplication import clusters
from unprompt.cli import app
from unprompt.errors import UnpromptError
from unprompt.pairs.table import Pair, PairsTable, load, save

UNPROMPT = str(Path(sys.executable).with_name("unprompt"))


def call(*arguments: object) -> tuple[int, str]:
    """Exit code and standard error of the installed command, in a process of its own."""
    command = [UNPROMPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def called(*arguments: object) -> str:
    """Standard error of a call in this process, which must succeed."""
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stderr


@pytest.fixture
def table(tmp_path) -> Path:
    rows = clusters(0, 200, 16, 0.15)
    pairs = [
        Pair(f"p{k}", f"{k}.png", f"prompt number {k}" if k else "", source="s", embedding=row)
        for k, row in enumerate(rows)
    ]
    save(PairsTable.from_pairs(pairs, tmp_path), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


def test_the_whole_way_from_filter_to_submission(table, tmp_path):
    code, told = call("filter", table, "-o", tmp_path / "clean.parquet", "--min-words", 2)
    assert code == 0
    assert "199 of 200 rows kept" in told
    assert "blank prompt: 1 dropped" in told
    told = called(
        "dedup", tmp_path / "clean.parquet", "-o", tmp_path / "d.parquet", "--threshold", 0.9
    )
    distinct = load(tmp_path / "d.parquet")
    assert f"{len(distinct):,} of 199 rows kept at cosine 0.9, by first" in told
    assert distinct.has("group")
    assert 10 < len(distinct) < 150
    told = called("split", tmp_path / "d.parquet", "-o", tmp_path / "s.parquet", "--val", 0.1)
    assert "train and val: highest cosine 0." in told
    assert {*load(tmp_path / "s.parquet").column("split")} == {"train", "val", "test"}
    told = called("convert", tmp_path / "s.parquet", tmp_path / "submission.csv")
    assert "kaggle-submission cannot hold: prompt" in told


def test_filter_without_an_output_needs_to_be_asked(table, tmp_path):
    assert "199 of 200" in called("filter", table, "--dry-run")
    code, told = call("filter", table)
    assert code == 2
    assert "--dry-run" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet"]


def test_dedup_marks_and_reports(table, tmp_path):
    told = called(
        "dedup", table, "-o", tmp_path / "m.parquet", "--mark", "--report", tmp_path / "r.html"
    )
    marked = load(tmp_path / "m.parquet")
    assert len(marked) == 200
    groups = len({*marked.column("group")})
    assert 10 < groups < 200
    assert "of 200 rows kept at cosine 0.9" in told
    assert "<svg" in (tmp_path / "r.html").read_text()
    assert "approximate: " in called("dedup", table, "--approximate")


def test_dedup_against_another_table_removes_what_leaks(table, tmp_path):
    rows = load(table)
    save(rows.take(range(50)), tmp_path / "test.parquet")
    told = called(
        "dedup", table, "--against", tmp_path / "test.parquet", "-o", tmp_path / "o.parquet"
    )
    left = load(tmp_path / "o.parquet")
    assert f"{len(left)} kept" in told
    unit = rows.embeddings / np.linalg.norm(rows.embeddings, axis=1, keepdims=True)
    free = (unit[50:] @ unit[:50].T).max(1) < 0.9
    assert left.column("id") == [f"p{k + 50}" for k in np.flatnonzero(free)]


def test_dedup_of_text_keeps_one_of_each(tmp_path, shared):
    lines = ["a cat on a mat", "A CAT on a mat!", "the moon over water", "a cat on a mat, 4k"]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    told = called("dedup", tmp_path / "in.txt", "-o", tmp_path / "o.txt", "--threshold", 0.8)
    assert "2 of 4 rows kept" in told
    assert (tmp_path / "o.txt").read_text() == "a cat on a mat\nthe moon over water\n"


def test_dedup_of_images_names_those_it_could_not_read(tmp_path):
    draw = np.random.default_rng(0)
    for k in range(3):
        noise = Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8))
        noise.resize((64, 64)).save(tmp_path / f"{k}.png")
    names = ["0.png", "1.png", "0.png", "gone.png", "2.png"]
    pairs = [Pair(str(k), name, f"prompt {k}") for k, name in enumerate(names)]
    save(PairsTable.from_pairs(pairs, tmp_path), tmp_path / "t.parquet")
    code, told = call("dedup", tmp_path / "t.parquet", "--images", "-o", tmp_path / "o.parquet")
    assert code == 1
    assert "row 4: image 'gone.png' is not there" in told
    assert load(tmp_path / "o.parquet").column("id") == ["0", "1", "4"]
    assert load(tmp_path / "o.parquet").column("group") == [0, 1, 4]


def test_convert_names_rows_that_failed(table, tmp_path):
    code, told = call("convert", table, tmp_path / "shards", "--to", "webdataset")
    assert code == 1
    assert told.count("is not there") == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dedup", "in.parquet", "--threshold", "1.5"), "at most 1"),
        (("dedup", "in.parquet", "-o", "out.txt"), "so name a .parquet file"),
        (("dedup", "in.parquet", "--images", "--approximate"), "are for prompts"),
        (("dedup", "in.parquet", "--against", "in.parquet", "--mark"), "leave out"),
        (("dedup", "in.txt", "--images"), "no images"),
        (("split", "in.parquet", "-o", "o.parquet", "--val", "1"), "shares"),
        (("filter", "gone.parquet", "--dry-run"), "no such pairs table"),
        (("filter", "in.parquet", "--dry-run", "--match", "("), "not a regular expression"),
    ],
)
def test_wrong_calls_are_refused(table, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnpromptError, match=message):
        CliRunner().invoke(app, [*arguments], catch_exceptions=False)


def test_a_wrong_call_ends_with_two_and_one_line(table, tmp_path):
    code, told = call("dedup", table, "--threshold", 1.5)
    assert code == 2
    assert told == "unprompt: the threshold must be above 0 and at most 1, not 1.5\n"


@pytest.mark.parametrize("verb", ["filter", "dedup", "split", "convert"])
def test_help_has_examples(verb):
    assert "Examples" in CliRunner().invoke(app, [verb, "--help"]).stdout


@pytest.mark.parametrize(
    "kills", [pytest.param(2, id="few"), pytest.param(50, marks=pytest.mark.slow, id="many")]
)
def test_killed_at_any_moment_the_output_is_whole_or_absent(table, tmp_path, kills):
    output = tmp_path / "out" / "o.parquet"
    command = [UNPROMPT, "dedup", str(table), "-o", str(output)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    whole = load(output).column("id")
    draw = random.Random(0)
    for _ in range(kills):
        output.unlink(missing_ok=True)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.5, 1.1) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists() or load(output).column("id") == whole
    subprocess.run(command, check=True, capture_output=True)
    assert load(output).column("id") == whole
