"""The installed command takes the tables of other tools, whatever their columns are called."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image

from unprompt.errors import TableError
from unprompt.pairs.convert import convert
from unprompt.pairs.table import PairsTable, load
from unprompt.pairs.validation import validate

COMMAND = Path(sys.executable).parent / "unprompt"
PROMPTS = ["a red fox, in the snow", 'a "quoted" castle', "美しい風景; oil", "two  spaces"]
FILES = [f"images/{n}.png" for n in range(4)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def delimited(path: Path, header: tuple[str, str], separator: str) -> Path:
    """A table with a further column before and one after, each value in quotation marks."""
    rows = [("n", *header, "width")]
    rows += [(str(n), FILES[n], PROMPTS[n], "64.0") for n in range(4)]
    quoted = (('"' + value.replace('"', '""') + '"' for value in row) for row in rows)
    path.write_text("".join(separator.join(row) + "\n" for row in quoted), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for n, file in enumerate(FILES):
        Image.new("RGB", (64, 48), (40 * n, 90, 200)).save(tmp_path / file)
    return tmp_path


@pytest.fixture
def csv_file(folder: Path) -> Path:
    return delimited(folder / "mine.csv", ("image_path", "caption"), ";")


def checked(path: Path, prompts: list[str] = PROMPTS) -> PairsTable:
    table = load(path)
    validate(table, "decode")
    assert table.prompts == prompts
    return table


def test_convert_takes_every_separator_and_format(folder):
    header = ("file_name", "text")
    for separator, name in ((";", "b.csv"), ("\t", "d.tsv")):
        delimited(folder / name, header, separator)
    rows = [
        dict(zip((*header, "seed"), row, strict=True))
        for row in zip(FILES, PROMPTS, [1, "r", 3, None], strict=True)
    ]
    (folder / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stored = {"Image": FILES, "TITLE": PROMPTS, "id": [7, 8, 9, None], "group": list("abcd")}
    pq.write_table(pa.table(stored), folder / "f.parquet")
    ids = {"f.parquet": ["7", "8", "9", FILES[3]]}
    for name in ("b.csv", "d.tsv", "e.jsonl", "f.parquet"):
        done = run("convert", folder / name, folder / "out.parquet")
        assert done.returncode == 0, done.stderr
        image, prompt = ("Image", "TITLE") if name == "f.parquet" else header
        taken = (
            f"unprompt: {folder / name}: takes images from '{image}' and prompts from '{prompt}'"
        )
        assert done.stderr.splitlines()[0] == taken
        table = checked(folder / "out.parquet")
        assert table.column("id") == ids.get(name, FILES)
        if name.endswith("sv"):
            assert table.column("width") == [64] * 4
            assert table.column("n") == ["0", "1", "2", "3"]


def test_columns_can_be_named(folder):
    delimited(folder / "t.csv", ("bild", "worte"), "|")
    options = ("--image-column", "bild", "--prompt-column", "worte", "--separator", "|")
    done = run("convert", folder / "t.csv", folder / "out.parquet", *options)
    assert done.returncode == 0, done.stderr
    checked(folder / "out.parquet")
    done = run("filter", folder / "t.csv", "--dry-run", "--separator", "|")
    assert done.returncode == 2
    assert "column 'file' is missing; it holds n, bild, worte, width; name" in done.stderr
    assert "--image-column" in done.stderr


def test_verbs_that_curate(csv_file, folder):
    for arguments in (
        ("filter", "--min-side", 48, "--check-images", "--keep-blank"),
        ("dedup", "--threshold", 1),
        ("encode", "--precision", "fp32"),
        ("split", "--val", 0.25, "--test", 0.25),
    ):
        done = run(arguments[0], csv_file, "-o", folder / "out.parquet", *arguments[1:])
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("takes images from 'image_path'") == 1
        kept = PROMPTS if "--check-images" not in arguments else []
        assert load(folder / "out.parquet").prompts == kept
    done = run("dedup", csv_file, "--against", csv_file, "--threshold", 1, "--prompt-column", "n")
    assert "4 kept" in done.stderr


def test_evaluate(csv_file, folder):
    done = run("evaluate", "builtin", csv_file, "--split", "all", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_train(folder):
    files = [Path(f"images/{n}.png") for n in range(16)]
    for n, file in enumerate(files):
        Image.new("RGB", (32, 32), (15 * n, 90, 200)).save(folder / file)
    rows = [f"{file};{file.stem} words\n" for file in files]
    (folder / "train.csv").write_text("bild;text\n" + "".join(rows))
    recipe = {
        "output": str(folder / "run"),
        "data": {"val": 0.25, "test": 0.25, "workers": 0},
        "model": {"backbone": "timm/test_resnet", "pretrained": False, "size": 32},
        "schedule": {"max_steps": 1, "batch_size": 2, "evaluations": 1, "precision": "fp32"},
    }
    OmegaConf.save(OmegaConf.create(recipe), folder / "recipe.yaml")
    stated = (f"data.table={folder / 'train.csv'}", "data.image_column=bild", "data.threshold=1.0")
    done = run("train", folder / "recipe.yaml", *stated)
    assert done.returncode == 0, done.stderr
    assert load(folder / "run").column("id") == [str(file) for file in files]


def test_paths_of_every_sort(folder):
    def converted(*files: str) -> PairsTable:
        (folder / "t.csv").write_text("path,title\n" + "".join(f"{file},x\n" for file in files))
        convert(folder / "t.csv", folder / "out.parquet")
        return checked(folder / "out.parquet", ["x"] * len(files))

    table = converted("images\\0.png", "./images/1.png", "images/1.png", "images/1.png")
    assert table.column("id")[2:] == ["images/1.png", "images/1.png#2"]
    assert len(converted(*(str(folder / file) for file in FILES))) == 4
    for files, message in (
        (("a.png", "/b.png"), "row 3: relative and absolute paths are mixed"),
        (("http://a/b.png",), "row 2: 'http://a/b.png' is a URL; run: unprompt download"),
        (("",), "row 2: column 'path' is '', not the path"),
    ):
        with pytest.raises(TableError, match=message):
            converted(*files)


def test_images_inside_parquet_are_no_paths(folder):
    pq.write_table(pa.table({"image": [b"png"], "text": ["x"]}), folder / "t.parquet")
    done = run("filter", folder / "t.parquet", "--dry-run")
    assert done.returncode == 2
    assert "column 'file' is missing; it holds text" in done.stderr
