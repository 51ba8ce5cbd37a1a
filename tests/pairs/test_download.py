import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("img2dataset", reason="the extra [data] is not installed")

from tests.pairs.web import AT_FIRST, NEVER, BadWeb, bad_web, kind
from unprompt.errors import TableError, UnpromptError
from unprompt.pairs.download import Options, download, is_passing, load_presets, read_list
from unprompt.pairs.guard import connect, guarded_opener
from unprompt.pairs.preset_list import fetch_list, to_text
from unprompt.pairs.table import load, validate

UNPROMPT = str(Path(sys.executable).with_name("unprompt"))


def _list(path: Path, web: BadWeb, count: int) -> Path:
    lines = ["url\tcaption", *(f"{web.url(n)}\tpicture {n}" for n in range(count))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _verb(urls: Path, folder: Path, *more: str) -> list[str]:
    call = [UNPROMPT, "download", str(urls), "-o", str(folder), "--image-size", "16"]
    call += ["--processes", "1", "--threads", "64", "--timeout", "3", "--allow-private"]
    return [*call, *more]


@pytest.mark.slow
def test_two_thousand_images_of_a_bad_web(tmp_path: Path) -> None:
    with bad_web(3.0) as web:
        urls = _list(tmp_path / "urls.tsv", web, 2000)
        call = _verb(urls, tmp_path / "out", "--shard-size", "500", "--licence", "CC0-1.0")
        first = subprocess.run(call, capture_output=True, text=True)
        assert first.returncode == 1, first.stderr
        assert first.stdout == ""
        kinds = [kind(n) for n in range(2000)]
        there = {f"picture {n}" for n in range(2000) if kinds[n] not in NEVER | AT_FIRST}
        # An overloaded machine may let further answers come too late; none else can be missing.
        got = set(load(tmp_path / "out").prompts)
        assert got <= there | {f"picture {n}" for n in range(2000) if kinds[n] in AT_FIRST}
        assert len(there - got) < 100
        asked = web.asked.copy()

        for _ in range(3):
            again = subprocess.run(call, capture_output=True, text=True)
            assert again.returncode == 1, again.stderr
        retried = {path for path in web.asked if web.asked[path] > asked[path]}
    table = load(tmp_path / "out")
    validate(table, images="decode")
    assert len(table) == len(set(table.prompts)) == 2000 - sum(k in NEVER for k in kinds)
    assert set(table.column("licence")) == {"CC0-1.0"}
    assert set(table.column("source")) == {"urls"}
    assert not any(table.column("exact"))
    # What had arrived, and what failed for good, was not asked for again.
    for path in retried:
        number = int(path.strip("/").split(".")[0].removeprefix("moved-"))
        assert f"picture {number}" not in got
        assert kinds[number] not in NEVER - {"error"}
    assert "HTTP Error 404" in again.stderr


def test_addresses_that_are_not_public_are_refused(tmp_path: Path) -> None:
    with bad_web(3.0) as web:
        urls = _list(tmp_path / "urls.tsv", web, 5)
        result = download(urls, tmp_path / "out", Options(processes=1, threads=4, timeout=2))
        assert result.arrived == 0
        assert sum(result.failures.values()) == 5
        assert all("no public address" in reason for reason in result.failures)
        assert result.passing == 0
        assert not web.asked


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "localhost"])
def test_the_guard_connects_to_no_such_host(host: str) -> None:
    with pytest.raises(OSError, match="no public address"):
        connect((host, 80), 1)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/x", "data:,x"])
def test_the_guard_opens_no_other_scheme(url: str) -> None:
    with pytest.raises(OSError, match="unknown url type"):
        guarded_opener().open(url, timeout=1)


@pytest.mark.parametrize(
    ("reason", "passing"),
    [
        ("HTTP Error 429: Too Many Requests", True),
        ("HTTP Error 503: Service Unavailable", True),
        ("<urlopen error timed out>", True),
        ("The read operation timed out", True),
        ("[Errno 104] Connection reset by peer", True),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", True),
        ("HTTP Error 404: Not Found", False),
        ("HTTP Error 403: Forbidden", False),
        ("Image decoding error", False),
        ("Use of image disallowed by X-Robots-Tag directive", False),
        ("<urlopen error [Errno -2] Name or service not known>", False),
        ("refused: localhost has no public address", False),
    ],
)
def test_reasons(reason: str, passing: bool) -> None:
    assert is_passing(reason) == passing


def test_shards_in_tar_files(tmp_path: Path) -> None:
    with bad_web(3.0) as web:
        urls = _list(tmp_path / "urls.tsv", web, 6)
        call = _verb(urls, tmp_path / "out", "--format", "webdataset", "--encode-format", "png")
        done = subprocess.run(call, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
    table = load(tmp_path / "out")
    validate(table, images="decode")
    assert table.prompts == [f"picture {n}" for n in (0, 1, 2, 4, 5)]
    assert table.column("file")[0] == "round-0/images/00000.tar/00000000.png"


@pytest.mark.slow
def test_killed_at_random_the_union_is_complete(tmp_path: Path) -> None:
    rng = random.Random(0)
    with bad_web(3.0) as web:
        urls = _list(tmp_path / "urls.tsv", web, 2000)
        call = _verb(urls, tmp_path / "out", "--shard-size", "50")
        for _ in range(20):
            process = subprocess.Popen(
                call, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            asked, started = web.asked.total(), time.monotonic()
            while process.poll() is None and web.asked.total() == asked:
                assert time.monotonic() - started < 120
                time.sleep(0.01)
            time.sleep(rng.random())
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for _ in range(4):
            subprocess.run(call, capture_output=True)
    table = load(tmp_path / "out")
    validate(table, images="decode")
    expected = {f"picture {n}" for n in range(2000) if kind(n) not in NEVER}
    assert set(table.prompts) == expected
    assert len(table) == len(expected)


def test_repeated_and_empty_rows_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "urls.csv"
    path.write_text("link,alt\nhttp://a/1,x\nhttp://a/1,x\nhttp://a/2,\n,y\nhttp://a/1,z\n")
    assert list(read_list(path, "link", "alt")) == [
        ("http://a/1", "x"),
        ("http://a/1", "x"),
        ("http://a/1", "z"),
    ]
    result = download(
        path,
        tmp_path / "out",
        Options(processes=1, timeout=1),
        url_column="link",
        caption_column="alt",
    )
    assert result.listed == 2


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        list(read_list(tmp_path / "none.csv"))
    (tmp_path / "urls.txt").write_text("http://a/1\n")
    with pytest.raises(TableError, match="a list of URLs is"):
        list(read_list(tmp_path / "urls.txt"))
    (tmp_path / "urls.jsonl").write_text('{"link": "http://a/1"}\n')
    with pytest.raises(TableError, match="column 'url' is missing; it holds link"):
        list(read_list(tmp_path / "urls.jsonl"))


def test_a_folder_of_another_download_is_refused(tmp_path: Path) -> None:
    with bad_web(3.0) as web:
        urls = _list(tmp_path / "urls.tsv", web, 2)
        options = Options(processes=1, allow_private=True)
        download(urls, tmp_path / "out", options)
        with pytest.raises(UnpromptError, match="image_size: 512 there, 64 now"):
            download(urls, tmp_path / "out", Options(image_size=64))


def test_presets_are_whole() -> None:
    presets = load_presets()
    names = {"mscoco", "sbucaptions", "cc3m", "cc12m", "laion400m", "laion2b-en", "diffusiondb"}
    assert set(presets) == names
    text = to_text(presets)
    for preset in presets.values():
        assert preset.list.startswith("https://")
        assert preset.licence in text
        assert preset.terms in text
    with pytest.raises(UnpromptError, match="unprompt harvest"):
        fetch_list(presets["diffusiondb"], Path())


def test_the_verb_lists_presets_and_refuses_half_a_call() -> None:
    shown = subprocess.run([UNPROMPT, "download", "--list"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "591,753 pairs" in shown.stdout
    wrong = subprocess.run([UNPROMPT, "download"], capture_output=True, text=True)
    assert wrong.returncode == 2
