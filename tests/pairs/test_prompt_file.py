"""Prompts of files of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unprompt.errors import TableError
from unprompt.pairs.prompt_file import is_table, prompts_of, stream_prompts, write_prompts
from unprompt.pairs.table import Pair, PairsTable, save

PROMPTS = ["a red fox, oil painting", 'a "quoted" castle', "美しい風景", "  two  spaces "]


def as_json_lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def quoted() -> list[str]:
    return [f'"{prompt.replace(chr(34), 2 * chr(34))}"' for prompt in PROMPTS]


def test_a_text_file_has_a_prompt_on_each_line_that_is_not_blank(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\n  \nid,prompt\r\n\ta dog \x0b\x85end".encode())
    assert prompts_of(path) == ["a cat", "id,prompt", "\ta dog \x0b\x85end"]
    assert prompts_of(str(path)) == list(stream_prompts(path))


@pytest.mark.parametrize("column", ["prompt", "caption", "text", "title", "Prompt", "TEXT"])
@pytest.mark.parametrize(("name", "delimiter"), [("p.csv", ","), ("p.tsv", "\t"), ("p.CSV", "\t")])
def test_a_csv_file_gives_its_column(tmp_path, quoted, column, name, delimiter):
    lines = [delimiter.join(["id", column, "seed"])]
    lines += [delimiter.join([f"id{n}", prompt, "7"]) for n, prompt in enumerate(quoted)]
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    assert prompts_of(tmp_path / name) == PROMPTS


def test_a_csv_file_of_one_column_and_of_semicolons(tmp_path, quoted):
    path = tmp_path / "p.csv"
    path.write_text("\n".join(["prompt", *quoted]))
    assert prompts_of(path) == PROMPTS
    path.write_text("prompt;seed\na, b;3\n;4\n")
    assert prompts_of(path) == ["a, b", ""]


def test_prompt_goes_before_caption_before_text(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("text,title,caption,prompt\nt,i,c,p\n")
    assert prompts_of(path) == ["p"]
    path.write_text("title,text,caption\ni,t,c\n")
    assert prompts_of(path) == ["c"]
    assert prompts_of(as_json_lines(tmp_path / "p.jsonl", [{"title": "i", "text": "t"}])) == ["t"]


def test_tables_of_every_name(tmp_path):
    pairs = PairsTable.from_pairs(
        [Pair(str(n), f"{n}.png", prompt) for n, prompt in enumerate(PROMPTS)], tmp_path
    )
    save(pairs, tmp_path / "pairs.parquet")
    (tmp_path / "unnamed").write_bytes((tmp_path / "pairs.parquet").read_bytes())
    rows = [{"text": prompt, "further": [1, "two"][n % 2]} for n, prompt in enumerate(PROMPTS)]
    as_json_lines(tmp_path / "p.jsonl", rows)
    captions = pa.array(PROMPTS).dictionary_encode()
    pq.write_table(pa.table({"Caption": captions, "n": range(4)}), tmp_path / "p.parquet")
    for name in ("pairs.parquet", "unnamed", ".", "p.jsonl", "p.parquet"):
        assert is_table(tmp_path / name) == ("p." not in name)
        assert prompts_of(tmp_path / name) == PROMPTS
    assert not is_table(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("image,text\na.png,a\n")
    assert is_table(tmp_path / "p.csv")


def test_rows_beyond_a_batch_keep_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("unprompt.pairs.prompt_file._BATCH", 2)
    pq.write_table(pa.table({"prompt": ["a", "b", "c", None]}), tmp_path / "p.parquet")
    with pytest.raises(TableError, match=r"p\.parquet, row 4: column 'prompt' is null"):
        prompts_of(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "id,words\n1,a\n", "has no column of prompts; the columns are id, words. Name"),
        ("p.csv", "", "the columns are none"),
        ("p.tsv", "a red fox\na blue fox\n", "the columns are a red fox. .* to a .txt file"),
        ("p.csv", "id,prompt\n1,a,b\n", "p.csv, row 2: not 2 values"),
        ("p.csv", b"prompt\n\xff\n", "not UTF-8"),
        ("p.jsonl", '{"prompt": "a"}\n{"caption": "b"}\n', "row 2: column 'prompt' is null"),
        ("p.jsonl", '{"prompt": 7}\n', "row 1: column 'prompt' is 7, which is not text"),
        ("p.jsonl", '{"words": "a"}\n', "the columns are words"),
        ("p.jsonl", '{"prompt": "a"}\n["b"]\n', "row 2: not a JSON object"),
        ("p.json", '["a", "b"]', "write JSON lines"),
        ("p.parquet", "prompt", "not a readable Parquet file"),
        ("p.txt", b"fine\n\n\xff\n", "p.txt, line 3: not UTF-8"),
    ],
)  # fmt: skip
def test_what_holds_no_prompts_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(TableError, match=message):
        prompts_of(tmp_path / name)


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p.parquet", "nowhere"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(TableError, match=name):
        prompts_of(tmp_path / "folder" / name)


def test_what_is_written_is_read_again(tmp_path):
    write_prompts([*PROMPTS, "two\r\nlines\ror\nthree"], tmp_path / "p.txt")
    assert prompts_of(tmp_path / "p.txt") == [*PROMPTS, "two lines or three"]
