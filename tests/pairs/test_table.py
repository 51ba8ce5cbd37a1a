from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unprompt.errors import OutputError, TableError
from unprompt.pairs.schema import SCHEMA
from unprompt.pairs.table import (
    Pair,
    PairsTable,
    PairsWriter,
    load,
    save,
    stream,
)
from unprompt.pairs.validation import find_problems, validate

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MAYBE_TEXT = st.none() | TEXT
INT32 = st.none() | st.integers(-(2**31), 2**31 - 1)
PAIRS = st.lists(
    st.builds(
        Pair,
        id=TEXT,
        file=TEXT,
        prompt=TEXT,
        negative_prompt=MAYBE_TEXT,
        generator=MAYBE_TEXT,
        source=MAYBE_TEXT,
        licence=MAYBE_TEXT,
        exact=st.booleans(),
        width=INT32,
        height=INT32,
        seed=st.none() | st.integers(0, 2**64 - 1),
        steps=INT32,
        sampler=MAYBE_TEXT,
        guidance=st.none() | st.floats(width=32, allow_nan=False),
        sha256=MAYBE_TEXT,
        group=st.none() | st.integers(-(2**63), 2**63 - 1),
        split=st.none() | st.sampled_from(["train", "val", "test"]),
        embedding=st.none()
        | st.lists(st.floats(width=16, allow_nan=False), min_size=3, max_size=3),
    ),
    max_size=12,
)


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), "teal").save(path)


def write_parquet(path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def some(count: int = 3, **changes: object) -> list[Pair]:
    return [replace(Pair(f"p{k}", f"{k}.png", f"prompt {k}"), **changes) for k in range(count)]


@settings(max_examples=40)
@given(PAIRS, st.integers(1, 13))
def test_what_is_saved_is_loaded(tmp_path_factory, pairs, batch_size):
    path = tmp_path_factory.mktemp("table") / "pairs.parquet"
    table = PairsTable.from_pairs(pairs, path.parent)
    save(table, path)
    assert list(load(path)) == pairs
    batches = list(stream(path, batch_size=batch_size))
    assert [pair for batch in batches for pair in batch] == pairs
    assert all(len(batch) <= batch_size for batch in batches)


@settings(max_examples=40)
@given(PAIRS)
def test_json_lines_hold_the_same_rows(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("table") / "pairs.jsonl"
    rows = [{n: getattr(p, n) for n in SCHEMA.names if n != "embedding"} for p in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(load(path)) == [replace(pair, embedding=None) for pair in pairs]


def test_columns_have_the_types_of_the_schema_and_further_ones_stay(tmp_path):
    path = write_parquet(
        tmp_path / "pairs.parquet", id=["a"], file=["a.png"], prompt=["x"], width=[7], clip=[0.5]
    )
    table = load(path)
    assert table.data.schema.names == [*SCHEMA.names, "clip"]
    assert table.data.schema.field("width").type == pa.int32()
    assert table.column("exact") == [True]
    assert table.column("clip") == [0.5]
    assert load(path, columns=["width"]).column("width") == [7]
    assert "clip" not in load(path, columns=["width"]).data.column_names


def test_selecting_rows():
    table = PairsTable.from_pairs(
        [replace(p, split=s) for p, s in zip(some(), ["train", "val", "train"], strict=True)], "."
    )
    assert table.take([2, 0]).column("id") == ["p2", "p0"]
    assert table.where([False, True, False]).column("id") == ["p1"]
    assert table.of_split("train").column("id") == ["p0", "p2"]
    with pytest.raises(TableError, match="no row of the split 'test'; it holds train, val"):
        table.of_split("test")
    with pytest.raises(TableError, match="unprompt split"):
        PairsTable.from_pairs(some(), ".").of_split("train")
    assert "3 pairs" in repr(table)


def test_embeddings_of_any_width_come_back(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float16)
    table = PairsTable.from_pairs(some(), tmp_path)
    assert not table.has("embedding")
    with pytest.raises(TableError, match="3 of 3 rows have no embedding; run: unprompt encode"):
        _ = table.embeddings
    save(table.with_columns({"embedding": vectors}), tmp_path / "pairs.parquet")
    back = load(tmp_path / "pairs.parquet")
    assert back.has("embedding")
    assert back.embeddings.dtype == np.float32
    assert (back.embeddings == vectors).all()


def test_embeddings_of_float32_and_of_json_become_float16(tmp_path):
    flat = pa.array(np.arange(8, dtype=np.float32))
    data = pa.table(
        {
            "id": ["a", "b"],
            "file": ["a", "b"],
            "prompt": ["a", "b"],
            "embedding": pa.FixedSizeListArray.from_arrays(flat, 4),
        }
    )
    assert PairsTable(data, ".").embeddings.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    line = {"id": "a", "file": "a", "prompt": "a", "embedding": [0.5] * 6}
    (tmp_path / "t.jsonl").write_text(json.dumps(line))
    assert load(tmp_path / "t.jsonl").embeddings.tolist() == [[0.5] * 6]


# --- what is wrong, with file and row ---------------------------------------------------------


@pytest.mark.parametrize("missing", ["file", "prompt"])
def test_a_missing_column_is_named_with_its_file(tmp_path, missing):
    columns = {name: ["a"] for name in ("id", "file", "prompt") if name != missing}
    path = write_parquet(tmp_path / "pairs.parquet", **columns)
    option = "--image-column" if missing == "file" else "--prompt-column"
    with pytest.raises(TableError, match=rf"pairs\.parquet: .* id, .*{option}"):
        load(path)


def test_a_value_of_the_wrong_type_is_named_with_its_row(tmp_path):
    path = write_parquet(
        tmp_path / "pairs.parquet",
        id=["a", "b", "c"],
        file=["a", "b", "c"],
        prompt=["a", "b", "c"],
        width=["512", "wide", "640"],
    )
    with pytest.raises(TableError, match=r"pairs.parquet, row 2: column 'width' holds 'wide'"):
        load(path)
    with pytest.raises(TableError, match=r"row 2: column 'width'"):
        list(stream(path, batch_size=1))
    numbers = write_parquet(tmp_path / "n.parquet", id=["a"], file=["a"], prompt=[3])
    with pytest.raises(TableError, match=r"row 1: column 'prompt' holds 3"):
        load(numbers)
    nulls = write_parquet(tmp_path / "m.parquet", id=["a"] * 2, file=["a"] * 2, prompt=["x", None])
    with pytest.raises(TableError, match=r"row 2: column 'prompt' is null"):
        load(nulls)
    with pytest.raises(TableError, match="column 'seed'"):
        PairsTable.from_pairs(some(seed=-1), ".")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b", "file": "b", "prompt": 7}', "row 2: column 'prompt' holds 7"),
        ('{"id": "b", "file": "b", "prompt": "b", "width": "x"}', "row 2: column 'width' holds"),
        ('{"id": "b", "file": "b", "prompt": "b", "seed": -1}', "row 2: column 'seed' holds -1"),
        ('{"id": "b", "file": "b"}', "row 2: column 'prompt' is null"),
        ("not json", "row 2: not a JSON object"),
        ("[1, 2]", "row 2: not a JSON object"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"id": "a", "file": "a", "prompt": "a", "width": 3}\n' + line + "\n")
    with pytest.raises(TableError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


def test_each_thing_that_the_schema_cannot_see_is_a_problem(tmp_path):
    save_image(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    files = ["good.png", "gone.png", "bad.png", "../good.png", "/etc/passwd", "C:\\x.png", "", "."]
    pairs = [Pair(f"p{k}", file, f"prompt {k}") for k, file in enumerate(files)]
    pairs += [
        Pair("p0", "good.png", "again"),
        Pair("", "good.png", "x"),
        Pair("blank", "good.png", " \n"),
        Pair("split", "good.png", "x", split="training"),
    ]
    save(PairsTable.from_pairs(pairs, tmp_path), tmp_path / "pairs.parquet")
    found = list(find_problems(load(tmp_path / "pairs.parquet"), images="decode"))
    wanted = [
        ("row 2: image 'gone.png' is not there"),
        ("row 3: image 'bad.png': "),
        ("row 4: file '../good.png' leaves the table's folder; refused"),
        ("row 5: file '/etc/passwd' must be relative to the table's folder; refused"),
        ("row 6: file 'C:\\x.png' must be relative to the table's folder; refused"),
        ("row 7: file '' is empty"),
        ("row 8: file '.' is empty"),
        ("row 9: id 'p0' is also in row 1"),
        ("row 10: the id is empty"),
        ("row 11: the prompt is empty"),
        ("row 12: split 'training' is not one of train, val, test"),
    ]
    assert len(found) == len(wanted)
    for line, start in zip(found, wanted, strict=True):
        assert line.startswith(start)
    with pytest.raises(TableError, match=r"pairs.parquet: 11 problems"):
        validate(load(tmp_path / "pairs.parquet"), "decode")
    # A file that is there but cannot be decoded is found only where that is asked for.
    assert len(list(find_problems(load(tmp_path / "pairs.parquet"), "exist"))) == 10
    assert len(list(find_problems(load(tmp_path / "pairs.parquet"), "none"))) == 4


def test_of_very_many_problems_twenty_are_shown(tmp_path):
    table = PairsTable.from_pairs(some(50), tmp_path, "t.parquet")
    with pytest.raises(TableError, match=r"50 problems(.|\n)*and 30 more"):
        validate(table)


def test_validate_passes_a_sound_table_and_refuses_a_wrong_question(tmp_path):
    for k in range(3):
        save_image(tmp_path / f"{k}.png")
    validate(PairsTable.from_pairs(some(), tmp_path), "decode")
    with pytest.raises(ValueError, match="none, exist or decode"):
        validate(PairsTable.from_pairs(some(), tmp_path), "maybe")


@pytest.mark.parametrize("name", ["gone.parquet", "gone.jsonl", "gone"])
def test_a_table_that_is_not_there(tmp_path, name):
    with pytest.raises(TableError, match="no such pairs table"):
        load(tmp_path / name)


def test_a_damaged_parquet_file(tmp_path):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"PAR1 no parquet at all")
    with pytest.raises(TableError, match="not a readable Parquet file"):
        load(path)
    save(PairsTable.from_pairs(some(500), tmp_path), path)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(TableError, match="damaged Parquet file"):
        load(path)


# --- images -----------------------------------------------------------------------------------


def test_images_in_a_folder_and_in_tar_shards(tmp_path):
    save_image(tmp_path / "images" / "a.png")
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "00000.tar", "w") as tar:
        tar.add(tmp_path / "images" / "a.png", "deep/a.png")
    files = ["images/a.png", "shards/00000.tar/deep/a.png", "shards/00000.tar/b.png", "no.tar/a"]
    pairs = [Pair(str(k), file, "x") for k, file in enumerate(files)]
    save(PairsTable.from_pairs(pairs, tmp_path), tmp_path / "pairs.parquet")
    table = load(tmp_path)  # a folder is its pairs.parquet
    assert table.open_image(0).size == table.open_image(1).size == (4, 3)
    assert table.read_bytes(0) == table.read_bytes(1)
    assert [line[:6] for line in find_problems(table)] == ["row 3:", "row 4:"]


def test_a_table_saved_away_from_its_images_finds_them(tmp_path):
    save_image(tmp_path / "data" / "0.png")
    table = PairsTable.from_pairs(some(1), tmp_path / "data")
    save(table, tmp_path / "elsewhere" / "deep" / "pairs.parquet")
    back = load(tmp_path / "elsewhere" / "deep" / "pairs.parquet")
    assert back.open_image(0).size == (4, 3)
    save(back, tmp_path / "data" / "again.parquet")
    assert not pq.read_schema(tmp_path / "data" / "again.parquet").metadata
    assert load(tmp_path / "data" / "again.parquet").open_image(0).size == (4, 3)


# --- writing ----------------------------------------------------------------------------------


def test_batches_are_written_as_one_table(tmp_path):
    with PairsWriter(tmp_path / "pairs.parquet") as writer:
        writer.write(some(2))
        writer.write(PairsTable.from_pairs(some(3), tmp_path))
    assert writer.rows == 5
    assert load(tmp_path / "pairs.parquet").column("id") == ["p0", "p1", "p0", "p1", "p2"]


def test_no_batch_at_all_is_an_empty_table(tmp_path):
    with PairsWriter(tmp_path / "pairs.parquet"):
        pass
    table = load(tmp_path / "pairs.parquet")
    assert len(table) == 0
    assert table.data.schema.names == SCHEMA.names
    assert not table.has("prompt")


def test_a_later_batch_must_have_the_columns_of_the_first(tmp_path):
    plain = PairsTable.from_pairs(some(), tmp_path)
    with PairsWriter(tmp_path / "pairs.parquet") as writer:
        writer.write(plain.with_columns({"clip": [1.0, 2.0, 3.0], "embedding": np.eye(3)}))
        with pytest.raises(TableError, match="rows from 4 on lack the column 'clip'"):
            writer.write(plain)
        with pytest.raises(TableError, match="rows from 4 on hold 'embedding' as"):
            writer.write(plain.with_columns({"clip": [1, 2, 3], "embedding": np.ones((3, 5))}))
        # A column that is null throughout has no width that could differ.
        writer.write(plain.with_columns({"clip": [1, 2, 3]}))
    assert load(tmp_path / "pairs.parquet").column("clip") == [1, 2, 3, 1, 2, 3]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "pairs.parquet"
    save(PairsTable.from_pairs(some(), tmp_path), path)

    def batches() -> Iterator[Pair]:
        yield from some(1)
        raise RuntimeError("the source broke")

    def write() -> None:
        with PairsWriter(path) as writer:
            writer.write(some(5))
            writer.write(batches())

    with pytest.raises(RuntimeError, match="the source broke"):
        write()
    assert load(path).column("id") == ["p0", "p1", "p2"]
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.parquet"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        save(PairsTable.from_pairs(some(), tmp_path), tmp_path / "file" / "pairs.parquet")


def test_a_full_disk_leaves_the_old_file_intact(tmp_path):
    # A limit on the size of files fails as a full disk does: in the middle of a write.
    path = tmp_path / "pairs.parquet"
    save(PairsTable.from_pairs(some(), tmp_path), path)
    before = path.read_bytes()
    script = f"""
        import random, resource
        from unprompt.errors import OutputError
        from unprompt.pairs.table import Pair, PairsTable, save
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        draw = random.Random(0)
        pairs = [Pair(str(k), "x", draw.randbytes(30).hex()) for k in range(5000)]
        try:
            save(PairsTable.from_pairs(pairs, {str(tmp_path)!r}), {str(path)!r})
        except OutputError as error:
            print(error)
    """
    # -B: Python would keep what it compiles under the limit, cut short.
    command = [sys.executable, "-B", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"cannot write {path}" in done.stdout, done.stderr
    assert "the old file, if any, is intact" in done.stdout
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.parquet"]


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells a process its highest memory"
)
def test_many_rows_stream_in_little_memory(tmp_path):
    path = tmp_path / "pairs.parquet"
    count, batch = 500_000, 100_000
    prompts = pa.array([f"a photograph of thing number {k}, highly detailed" for k in range(batch)])
    with PairsWriter(path) as writer:
        for start in range(0, count, batch):
            ids = pa.array(range(start, start + batch)).cast(pa.string())
            data = pa.table({"id": ids, "file": ids, "prompt": prompts})
            writer.write(PairsTable(data, tmp_path))
    script = f"""
        from pathlib import Path
        from unprompt.pairs.table import stream
        rows, peaks = 0, []
        for number, table in enumerate(stream({str(path)!r}, batch_size=10_000)):
            rows += len(table)
            if number in (20, 49):
                status = Path("/proc/self/status").read_text()
                peaks.append(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
        print(rows, *peaks)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    rows, early, late = map(int, done.stdout.split())
    assert rows == count
    assert late - early < 20  # MB; the whole table takes about 50


def test_the_real_pairs_load_and_are_sound(shared):
    stated = [json.loads(line) for line in (shared / "pairs" / "pairs.jsonl").open("rb")]
    table = load(shared / "pairs" / "pairs.jsonl")
    assert table.prompts == [row["prompt"] for row in stated]
    validate(table, "exist")
    assert min(table.open_image(0).size) == 256
    streamed = stream(shared / "pairs" / "pairs.jsonl", ["prompt"])
    assert sum(len(batch) for batch in streamed) == len(stated)


def test_a_column_that_is_not_asked_for_does_not_change_what_is_exact(tmp_path):
    table = PairsTable.from_pairs([Pair("a", "a.png", "a", exact=False, seed=4)], tmp_path)
    save(table, tmp_path / "pairs.parquet")
    (pair,) = load(tmp_path / "pairs.parquet", ["prompt"])
    assert (pair.exact, pair.seed) == (False, None)


@pytest.mark.parametrize("name", ["p.csv", "p.TSV", "p.json", "p.jsonl", "p.txt"])
def test_a_writer_refuses_the_endings_of_other_formats(tmp_path, name):
    with pytest.raises(OutputError, match=r"is a \.parquet file"):
        PairsWriter(tmp_path / name)


def test_a_table_without_a_file_has_a_name_in_errors(tmp_path):
    with pytest.raises(TableError, match=r"^pairs table: column 'file' is missing"):
        PairsTable(pa.table({"id": ["a"], "prompt": ["a"]}), tmp_path)
    with pytest.raises(TableError, match=r"^pairs table: 1 of 1 rows have no embedding"):
        _ = PairsTable.from_pairs([Pair("a", "a.png", "a")], tmp_path).embeddings


def test_null_prompts_are_refused_or_read_as_empty(tmp_path):
    rows = {"id": ["a", "b"], "file": ["a.png", "b.png"], "prompt": ["a", None]}
    pq.write_table(pa.table(rows), tmp_path / "p.parquet")
    with pytest.raises(TableError, match="row 2: column 'prompt' is null"):
        load(tmp_path / "p.parquet")
    (batch,) = stream(tmp_path / "p.parquet", blank_prompts=True)
    assert batch.prompts == ["a", ""]
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(TableError, match="column 'file' is missing"):
        list(stream(tmp_path / "p.parquet", blank_prompts=True))


def test_a_table_of_one_row_has_what_that_row_has(tmp_path):
    row = PairsTable.from_pairs([Pair("a", "a.png", "a", seed=1)], tmp_path)
    assert (row.has("seed"), row.has("steps"), row.has("nothing")) == (True, False, False)
    assert not row.take([]).has("seed")


def test_columns_are_replaced_in_their_place_and_new_ones_come_last(tmp_path):
    table = PairsTable.from_pairs([Pair("a", "a.png", "a", seed=1)], tmp_path)
    new = table.with_columns({"id": ["b"], "seed": [2], "extra": ["x"]})
    assert new.data.column_names == [*SCHEMA.names, "extra"]
    assert (new.column("id"), new.column("seed"), new.column("extra")) == (["b"], [2], ["x"])
