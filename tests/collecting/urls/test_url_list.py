import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unprompt.collecting.urls.url_list import read_list, write_list
from unprompt.errors import TableError

ROWS = [("http://a/1", "x"), ("http://a/2", 'a "quoted" word'), ("http://a/3", "z")]
URLS, CAPTIONS = [url for url, _ in ROWS], [caption for _, caption in ROWS]


def _as_columns(path: Path) -> None:
    path.write_text(json.dumps({"url": URLS, "caption": CAPTIONS}))


def _as_objects(path: Path) -> None:
    path.write_text(json.dumps([{"url": u, "caption": c} for u, c in ROWS]))


def _as_lines(path: Path) -> None:
    path.write_text("".join(json.dumps({"url": u, "caption": c}) + "\n" for u, c in ROWS))


def _as_csv(path: Path) -> None:
    lines = (f'{u},"{c.replace(chr(34), chr(34) * 2)}"\n' for u, c in ROWS)
    path.write_text("url,caption\n" + "".join(lines))


def _as_parquet(path: Path) -> None:
    pq.write_table(pa.table({"url": URLS, "caption": CAPTIONS}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.json", _as_columns),
        ("b.json", _as_objects),
        ("c.json", _as_lines),
        ("d.jsonl", _as_lines),
        ("e.csv", _as_csv),
        ("f.parquet", _as_parquet),
    ],
)
def test_every_form_of_a_list(tmp_path: Path, name: str, write) -> None:
    write(tmp_path / name)
    assert list(read_list(tmp_path / name)) == ROWS


def test_a_list_without_a_header_whose_quotation_marks_quote_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cc.tsv"
    path.write_text('"to be" she said\thttp://a/1\nan "open one\thttp://a/2\n"x\thttp://a/3\n')
    assert list(read_list(path, header=("caption", "url"))) == [
        ("http://a/1", '"to be" she said'),
        ("http://a/2", 'an "open one'),
        ("http://a/3", '"x'),
    ]


def test_a_folder_of_lists_and_columns_of_other_names(tmp_path: Path) -> None:
    for number in range(2):
        table = pa.table({"URL": [f"http://a/{number}"], "TEXT": ["x"]})
        pq.write_table(table, tmp_path / f"part-{number}.parquet")
    (tmp_path / "README.md").write_text("no list")
    rows = list(read_list(tmp_path, ("url", "URL"), ("caption", "TEXT")))
    assert rows == [("http://a/0", "x"), ("http://a/1", "x")]


def test_repeated_and_empty_rows_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "urls.csv"
    path.write_text("link,alt\nhttp://a/1,x\nhttp://a/1,x\nhttp://a/2,\n,y\nhttp://a/1,z\n")
    rows = list(read_list(path, ("link",), ("alt",)))
    assert rows == [("http://a/1", "x"), ("http://a/1", "x"), ("http://a/1", "z")]
    write_list(iter(rows), tmp_path / "written.parquet")
    assert list(read_list(tmp_path / "written.parquet")) == [rows[0], rows[2]]
    write_list(iter(rows), tmp_path / "written.parquet", limit=1)
    assert list(read_list(tmp_path / "written.parquet")) == rows[:1]


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        list(read_list(tmp_path / "none.csv"))
    (tmp_path / "urls.txt").write_text("http://a/1\n")
    with pytest.raises(TableError, match="a list of URLs is"):
        list(read_list(tmp_path / "urls.txt"))
    (tmp_path / "urls.jsonl").write_text('{"link": "http://a/1"}\n')
    with pytest.raises(TableError, match="column 'url' is missing; it holds link"):
        list(read_list(tmp_path / "urls.jsonl"))
    (tmp_path / "cut.json").write_text('{"url": ["http')
    with pytest.raises(TableError, match="cannot be read"):
        list(read_list(tmp_path / "cut.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match="holds no list"):
        list(read_list(tmp_path / "empty"))
