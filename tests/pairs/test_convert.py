from __future__ import annotations

import csv
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unprompt.errors import OutputError, TableError, UnpromptError
from unprompt.pairs.convert import FORMATS, convert
from unprompt.pairs.schema import SCHEMA
from unprompt.pairs.table import Pair, PairsTable, load, save
from unprompt.pairs.validation import validate

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PROMPTS = ["a cat", 'say "hi", then,\nleave', "tab\there", "Ünïcödé 猫 🐱", " spaced  ", "=1+1"]


@pytest.fixture
def table(tmp_path) -> Path:
    """Six pairs with every column set in some row, images in a folder and in a shard."""
    folder = tmp_path / "in"
    pairs = []
    for k, prompt in enumerate(PROMPTS):
        file = folder / "part-000007" / f"p{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), 40 * k, np.uint8)).save(file)
        full = {
            "negative_prompt": "blurry",
            "generator": "SD 1.5",
            "source": "here",
            "licence": "CC0-1.0",
            "exact": False,
            "width": 5,
            "height": 4,
            "seed": 2**31 + k,
            "steps": 20,
            "sampler": "k_euler",
            "guidance": 7.5,
            "sha256": "ab" * 32,
            "group": 3,
            "split": "val",
        }
        vector = np.random.default_rng(k).normal(size=8).astype(np.float16)
        pair = Pair(f"p{k}", f"part-000007/p{k}.png", prompt, embedding=vector.tolist())
        pairs.append(replace(pair, **full) if k % 2 else pair)
    save(PairsTable.from_pairs(pairs, folder), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def there_and_back(table: Path, name: str, target: str) -> tuple[PairsTable, PairsTable]:
    """The table, and what came back from the format; images are the same, byte by byte."""
    there = table.parent.parent / "out" / target
    done = convert(table, there, name)
    assert done.rows == len(PROMPTS)
    assert done.failed == []
    assert {*done.lost} == {*SCHEMA.names} - FORMATS[name].holds - {"file"}
    for column in done.lost:
        assert f"{column} (" in str(done)
    again = convert(there, table.parent.parent / "back" / "pairs.parquet")
    assert again.source_format == name
    return load(table), load(table.parent.parent / "back" / "pairs.parquet")


@pytest.mark.parametrize(
    ("name", "target", "with_images"),
    [
        ("pairs", "pairs.parquet", True),
        ("openclip-csv", "train.csv", True),
        ("openclip-csv", "train.tsv", True),
        ("webdataset", "shards", True),
        ("imagefolder", "folder", True),
        ("huggingface", "dataset", True),
        ("kaggle", "kaggle", True),
        ("diffusiondb", "metadata.parquet", False),
        ("kaggle-submission", "submission.csv", False),
    ],
)
def test_what_a_format_holds_survives_a_round_trip(table, name, target, with_images):
    before, after = there_and_back(table, name, target)
    for column in FORMATS[name].holds - {"file", "*"}:
        assert after.column(column) == before.column(column), column
    if with_images:
        assert [after.read_bytes(k) for k in range(6)] == [before.read_bytes(k) for k in range(6)]
        validate(after, "decode")


@settings(max_examples=40)
@given(st.lists(TEXT, max_size=10), st.sampled_from(["train.csv", "train.tsv"]))
def test_any_text_survives_a_csv(tmp_path_factory, prompts, name):
    folder = tmp_path_factory.mktemp("csv")
    pairs = [Pair(f"{k}.png", f"{k}.png", prompt) for k, prompt in enumerate(prompts)]
    save(PairsTable.from_pairs(pairs, folder), folder / "pairs.parquet")
    convert(folder / "pairs.parquet", folder / name)
    convert(folder / name, folder / "back.parquet")
    assert list(load(folder / "back.parquet")) == pairs


@settings(max_examples=30)
@given(
    st.lists(
        st.lists(st.floats(-65504, 65504, width=16), min_size=4, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_any_embedding_survives_a_submission(tmp_path_factory, vectors):
    folder = tmp_path_factory.mktemp("csv")
    pairs = [Pair(f"a_{k}", "x", "y", embedding=vector) for k, vector in enumerate(vectors)]
    save(PairsTable.from_pairs(pairs, folder), folder / "pairs.parquet")
    convert(folder / "pairs.parquet", folder / "submission.csv")
    convert(folder / "submission.csv", folder / "back.parquet")
    back = load(folder / "back.parquet")
    assert back.embeddings.tolist() == vectors
    assert back.column("id") == [pair.id for pair in pairs]
    assert back.prompts == [""] * len(pairs)


# --- what others wrote, and what others read ---------------------------------------------------


def test_a_submission_is_what_kaggle_wants(table, tmp_path):
    convert(table, tmp_path / "submission.csv")
    with (tmp_path / "submission.csv").open() as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["imgId_eId", "val"]
    assert [line[0] for line in lines[1:10]] == [*(f"p0_{k}" for k in range(8)), "p1_0"]
    assert len(lines) == 1 + 6 * 8
    assert float(lines[1][1]) == load(table).embeddings[0, 0]


def test_tabs_in_a_csv_as_open_clip_has_them_by_default(table, tmp_path):
    convert(table, tmp_path / "train.tsv")
    (tmp_path / "train.tsv").rename(tmp_path / "train.csv")
    convert(tmp_path / "train.csv", tmp_path / "back.parquet")
    assert load(tmp_path / "back.parquet").prompts == load(table).prompts


def test_ids_with_a_slash_survive_kaggles_folder(tmp_path):
    ids = ["set/0001", "100%", "a%2Fb"]
    for number in range(len(ids)):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    pairs = [Pair(name, f"{number}.png", "a cat") for number, name in enumerate(ids)]
    save(PairsTable.from_pairs(pairs, tmp_path), tmp_path / "t.parquet")
    assert convert(tmp_path / "t.parquet", tmp_path / "kaggle", "kaggle").failed == []
    convert(tmp_path / "kaggle", tmp_path / "back.parquet")
    back = load(tmp_path / "back.parquet")
    assert back.column("id") == ids
    files = [(tmp_path / f"{number}.png").read_bytes() for number in range(len(ids))]
    assert [back.read_bytes(number) for number in range(len(ids))] == files


def test_open_clip_reads_the_csv(table, tmp_path):
    convert(table, tmp_path / "in" / "train.tsv")
    import pandas

    frame = pandas.read_csv(tmp_path / "in" / "train.tsv", sep="\t")  # as open_clip's CsvDataset
    assert frame["title"].tolist() == PROMPTS
    assert frame["filepath"].tolist() == [f"part-000007/p{k}.png" for k in range(6)]
    # Elsewhere than the images, paths are absolute.
    convert(table, tmp_path / "elsewhere" / "train.csv")
    frame = pandas.read_csv(tmp_path / "elsewhere" / "train.csv")
    assert all(Path(file).is_file() for file in frame["filepath"])


def test_the_webdataset_library_reads_the_shards(table, tmp_path):
    import webdataset

    convert(table, tmp_path / "shards", "webdataset")
    samples = list(
        webdataset.WebDataset(str(tmp_path / "shards" / "00000.tar"), shardshuffle=False)
    )
    assert [sample["__key__"] for sample in samples] == [f"00000000{k}" for k in range(6)]
    assert [sample["txt"].decode() for sample in samples] == PROMPTS
    stated = json.loads(samples[1]["json"])
    assert (stated["caption"], stated["key"], stated["seed"]) == (
        PROMPTS[1],
        "000000001",
        2**31 + 1,
    )


def test_shards_of_img2dataset_are_read(tmp_path):
    picture = tmp_path / "x.jpg"
    Image.new("RGB", (4, 4)).save(picture)
    for shard in range(2):
        with tarfile.open(tmp_path / f"0000{shard}.tar", "w") as tar:
            for k in range(2):
                key = f"0000{shard}000{k}"
                stated = {"caption": "c", "url": "u", "width": 4, "height": 4, "status": "success"}
                (tmp_path / "a.json").write_text(json.dumps({**stated, "key": key}))
                (tmp_path / "a.txt").write_text(f"prompt {key}")
                tar.add(picture, f"{key}.jpg")
                tar.add(tmp_path / "a.json", f"{key}.json")
                if k == 0:
                    tar.add(tmp_path / "a.txt", f"{key}.txt")
    convert(tmp_path, tmp_path / "out" / "pairs.parquet", source_format="webdataset")
    pairs = load(tmp_path / "out" / "pairs.parquet")
    assert pairs.column("file")[2] == "00001.tar/000010000.jpg"
    assert pairs.prompts == ["prompt 000000000", "c", "prompt 000010000", "c"]
    assert pairs.column("width") == [4] * 4
    validate(pairs, "decode")


def test_images_of_a_dataset_stay_in_their_folder(tmp_path):
    import datasets

    elsewhere = tmp_path / "else" / "where.png"
    elsewhere.parent.mkdir()
    Image.new("RGB", (4, 4), "red").save(elsewhere)
    content = elsewhere.read_bytes()
    rows = [
        ({"bytes": None, "path": str(elsewhere)}, None),
        ({"bytes": content, "path": None}, "../../escaped.png"),
        ({"bytes": content, "path": None}, str(tmp_path / "absolute.png")),
        ({"bytes": content, "path": None}, "a/b.png"),
    ]
    kind = datasets.Features(
        image=datasets.Image(), text=datasets.Value("string"), file=datasets.Value("string")
    )
    data = {"image": [r[0] for r in rows], "text": ["a cat"] * 4, "file": [r[1] for r in rows]}
    saved = tmp_path / "in" / "saved"
    datasets.Dataset.from_dict(data, kind).save_to_disk(str(saved))
    convert(saved, tmp_path / "out" / "pairs.parquet")
    back = load(tmp_path / "out" / "pairs.parquet")
    validate(back, "decode")
    assert [back.read_bytes(row) for row in range(4)] == [content] * 4
    outside = {*tmp_path.rglob("*.png")} - {*(tmp_path / "out").rglob("*.png")}
    assert outside == {elsewhere}


def test_the_datasets_library_reads_folder_and_dataset(table, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets

    convert(table, tmp_path / "saved", "huggingface")
    data = datasets.load_from_disk(str(tmp_path / "saved"))
    assert data["text"] == PROMPTS
    assert data[2]["image"].size == (5, 4)
    convert(table, tmp_path / "folder", "imagefolder")
    data = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "folder"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert data["text"] == PROMPTS
    assert data[2]["image"].size == (5, 4)


def test_metadata_of_diffusiondb_is_read(tmp_path):
    columns = {
        "image_name": ["a.png", "b.png"],
        "prompt": ["x", "y"],
        "part_id": pa.array([1, 2000], pa.uint16()),
        "seed": pa.array([7, 2**32 - 1], pa.uint32()),
        "step": pa.array([50, 20], pa.uint16()),
        "cfg": pa.array([7.0, 9.5], pa.float32()),
        "sampler": pa.array([8, 1], pa.uint8()),
        "width": pa.array([512, 768], pa.uint16()),
        "height": pa.array([512, 640], pa.uint16()),
        "user_name": ["u", "v"],
        "image_nsfw": [0.1, 0.2],
    }
    pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    assert convert(tmp_path / "metadata.parquet", tmp_path / "pairs.parquet").rows == 2
    first, second = load(tmp_path / "pairs.parquet")
    assert (first.id, first.file, first.sampler) == ("a", "part-000001/a.png", "k_lms")
    assert (second.seed, second.steps, second.guidance) == (2**32 - 1, 20, 9.5)
    assert second.file == "part-002000/b.png"


def test_images_in_shards_go_where_paths_can_name_them(table, tmp_path):
    convert(table, tmp_path / "shards", "webdataset")
    convert(tmp_path / "shards", tmp_path / "pairs.parquet")
    done = convert(tmp_path / "pairs.parquet", tmp_path / "train.csv")
    assert len(done.failed) == 6
    assert "convert to imagefolder first" in done.failed[0]
    assert convert(tmp_path / "pairs.parquet", tmp_path / "folder", "imagefolder").failed == []
    assert convert(tmp_path / "folder", tmp_path / "train.csv").failed == []


# --- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["webdataset", "imagefolder", "huggingface", "kaggle"])
def test_a_row_without_its_image_is_told_and_passed_over(table, tmp_path, name):
    (table.parent / "part-000007" / "p2.png").unlink()
    done = convert(table, tmp_path / "out", name)
    assert len(done.failed) == 1
    assert "row 3: image 'part-000007/p2.png' is not there" in done.failed[0]
    assert "5 of 6 rows" in str(done)
    convert(tmp_path / "out", tmp_path / "back.parquet")
    assert load(tmp_path / "back.parquet").prompts == PROMPTS[:2] + PROMPTS[3:]


def test_rows_that_a_format_cannot_hold_are_told(tmp_path):
    pairs = [
        Pair("a", "part-000001/a.png", "x", sampler="brand new", seed=1),
        Pair("b", "elsewhere/b.png", "x"),
        Pair("c", "part-000001/c.png", "x", seed=2**40),
        Pair("..", "part-000001/d.png", "x"),
    ]
    (tmp_path / "part-000001").mkdir()
    (tmp_path / "part-000001" / "d.png").write_bytes(b"an image")
    save(PairsTable.from_pairs(pairs, tmp_path), tmp_path / "t.parquet")
    done = convert(tmp_path / "t.parquet", tmp_path / "m.parquet", "diffusiondb")
    assert [line.split(": ")[0][-5:] for line in done.failed] == ["row 2", "row 3"]
    convert(tmp_path / "m.parquet", tmp_path / "back.parquet")
    assert load(tmp_path / "back.parquet").column("sampler")[0] == "others"
    done = convert(tmp_path / "t.parquet", tmp_path / "submission.csv")
    assert len(done.failed) == 4
    assert "unprompt encode" in done.failed[0]
    done = convert(tmp_path / "t.parquet", tmp_path / "k", "kaggle")
    assert "cannot be a file's name" in done.failed[3]


def test_further_columns_are_held_or_named(table, tmp_path):
    with_clip = load(table).with_columns({"clip": [0.1] * 6})
    save(with_clip, tmp_path / "t.parquet")
    assert convert(tmp_path / "t.parquet", tmp_path / "train.csv").lost["clip"] == 6
    for name in ("webdataset", "imagefolder", "huggingface"):
        assert "clip" not in convert(tmp_path / "t.parquet", tmp_path / name, name).lost
        convert(tmp_path / name, tmp_path / f"{name}.parquet")
        assert load(tmp_path / f"{name}.parquet").column("clip") == [0.1] * 6


def test_a_folder_with_something_in_it_is_not_overwritten(table, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not empty"):
        convert(table, tmp_path / "out", "imagefolder")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_what_a_killed_run_left_is_cleared_away(table, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half.tar").write_bytes(b"half")
    convert(table, tmp_path / "out", "webdataset")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00000.tar"]
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "words,title\nx,y\n", "unknown format"),
        ("a.csv", "filepath,title\nx\n", "row 2: not 2 values"),
        ("a.csv", 'filepath,title\nx,"y\n', "not CSV"),
        ("a.csv", "filepath,title\n/x,y\nz,y\n", "row 3: relative and absolute paths"),
        ("submission.csv", "imgId_eId,val\na_0,1\na_1,x\n", "row 3: could not convert"),
        ("submission.csv", "imgId_eId,val\na_0,1\na_2,1\n", "row 3: a_2 is not number 1"),
        ("submission.csv", "imgId_eId,val\na_0,1\na_1,1\nb_0,1\n", "b has 1 values"),
        ("f/metadata.jsonl", '{"file_name": "x"}\n', "row 1: has no 'text'"),
        ("f/metadata.jsonl", "no json\n", "row 1: not a JSON object"),
        ("f/prompts.csv", "imgId,text\n", "column 'prompt' is missing; it holds imgId, text"),
        ("s/a.tar", "no tar at all", "not a readable tar"),
        ("a.xyz", "", "unknown format"),
    ],
)
def test_a_damaged_source_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    source = path if path.parent == tmp_path else path.parent
    with pytest.raises(TableError, match=message):
        convert(source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_latin_text_is_no_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"filepath,title\nx.png,caf\xe9\n")
    with pytest.raises(TableError, match="not UTF-8"):
        convert(tmp_path / "a.csv", tmp_path / "out.parquet", source_format="openclip-csv")


def test_wrong_calls_are_refused(table, tmp_path):
    with pytest.raises(TableError, match="no such file or folder"):
        convert(tmp_path / "gone", tmp_path / "a.csv")
    with pytest.raises(UnpromptError, match="no format 'coco'; there are"):
        convert(table, tmp_path / "x", "coco")
    with pytest.raises(UnpromptError, match="name one with --to"):
        convert(table, tmp_path / "folder")
