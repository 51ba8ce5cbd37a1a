import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("img2dataset", reason="the extra [data] is not installed")

from tests.collecting.urls.web import AT_FIRST, NEVER, BadWeb, bad_web, kind
from unprompt.cli import app
from unprompt.collecting.download import Options, download_list, is_temporary
from unprompt.errors import UnpromptError
from unprompt.pairs.table import load
from unprompt.pairs.validation import validate

UNPROMPT = str(Path(sys.executable).with_name("unprompt"))


def _list(path: Path, web: BadWeb, count: int) -> Path:
    lines = ["url\tcaption", *(f"{web.url(n)}\tpicture {n}" for n in range(count))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _verb(urls: Path, folder: Path, *more: str) -> list[str]:
    call = [UNPROMPT, "download", str(urls), "-o", str(folder), "--image-size", "16"]
    call += ["--processes", "1", "--threads", "64", "--timeout", "3", "--allow-private"]
    return [*call, *more]


def _few(path: Path, web: BadWeb, numbers: Sequence[int]) -> Path:
    rows = [f"{web.url(n)}\tpicture {n}" for n in numbers]
    path.write_text("\n".join(["url\tcaption", *rows]) + "\n", encoding="utf-8")
    return path


SMALL = Options(image_size=16, processes=1, timeout=60, allow_private=True)


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


@pytest.mark.parametrize(
    ("reason", "temporary"),
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
def test_reasons(reason: str, temporary: bool) -> None:
    assert is_temporary(reason) == temporary


@pytest.mark.slow
def test_the_guard_stands_in_every_process(tmp_path: Path) -> None:
    with bad_web(1.0) as web:
        urls = _few(tmp_path / "urls.tsv", web, range(4))
        result = download_list(
            urls, tmp_path / "out", replace(SMALL, allow_private=False, processes=2, shard_size=2)
        )
        assert result.failures == {"<urlopen error refused: 127.0.0.1 has no public address>": 4}
        assert not web.asked


@pytest.mark.slow
def test_interrupted_it_says_so_and_goes_on(tmp_path: Path) -> None:
    with bad_web(3.0) as web:
        urls = _list(tmp_path / "urls.tsv", web, 200)
        call = _verb(urls, tmp_path / "out", "--shard-size", "20")
        process = subprocess.Popen(
            call, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not web.asked:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) not in (0, 2)
        done = subprocess.run(call, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
    expected = {f"picture {n}" for n in range(200) if kind(n) not in NEVER | AT_FIRST}
    assert expected <= set(load(tmp_path / "out").prompts)


_KILLER = """
import multiprocessing, os, random, signal, sys, time
from pathlib import Path
import img2dataset.main
from unprompt.collecting import download as module
from unprompt.collecting.download import Options, download_list

urls, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
options = Options(
    image_size=16, processes=2, threads=32, timeout=1, shard_size=25, allow_private=True
)
# Copies of this process, which has loaded img2dataset, start at once; the process that only
# counts is left out.
module._processes = lambda: multiprocessing.get_context("fork")
main = sys.modules["img2dataset.main"]
main.LoggerProcess.start = main.LoggerProcess.join = lambda _: None
whole = lambda: len(list(folder.glob("round-0/images/*_stats.json")))
rng, halfway = random.Random(0), 0
for _ in range(kills):
    before = whole()
    child = os.fork()
    if child == 0:
        os.setsid()
        download_list(urls, folder, options)
        os._exit(0)
    while whole() == before and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    time.sleep(rng.random() * 0.3)
    # All its processes, or the first alone: the others end with it.
    (os.killpg if rng.random() < 0.5 else os.kill)(child, signal.SIGKILL)
    os.waitpid(child, 0)
    time.sleep(0.5)
    halfway += not (folder / "round-0" / "complete").exists()
print(halfway)
for _ in range(4):
    result = download_list(urls, folder, options)
"""


@pytest.mark.slow
def test_killed_at_random_the_union_is_complete(tmp_path: Path) -> None:
    """A download of two processes is killed twenty times; then it is finished."""
    with bad_web(1.0) as web:
        urls = _list(tmp_path / "urls.tsv", web, 2000)
        call = [sys.executable, "-c", _KILLER, str(urls), str(tmp_path / "out"), "20"]
        killed = subprocess.run(call, capture_output=True, text=True)
    assert killed.returncode == 0, killed.stderr
    assert int(killed.stdout.split()[0]) == 20, "a run came to its end before it was killed"
    _is_whole(tmp_path / "out", 2000)


@pytest.mark.slow
def test_the_command_killed_at_random(tmp_path: Path) -> None:
    rng = random.Random(0)
    with bad_web(3.0) as web:
        urls = _list(tmp_path / "urls.tsv", web, 500)
        call = _verb(urls, tmp_path / "out", "--shard-size", "20")
        for _ in range(3):
            process = subprocess.Popen(
                call, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            asked, started = web.asked.total(), time.monotonic()
            while process.poll() is None and web.asked.total() == asked:
                assert time.monotonic() - started < 600, "no address was asked for"
                time.sleep(0.01)
            time.sleep(rng.random())
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for _ in range(3):
            subprocess.run(call, capture_output=True)
    _is_whole(tmp_path / "out", 500)


def _is_whole(folder: Path, count: int) -> None:
    """Every image that the web has is there once, and nothing else is."""
    table = load(folder)
    validate(table, images="decode")
    expected = {f"picture {n}" for n in range(count) if kind(n) not in NEVER}
    assert set(table.prompts) == expected
    assert len(table) == len(expected)
    there = {path.relative_to(folder) for path in folder.rglob("*.jpg")}
    assert there == set(map(Path, table.column("file")))
    assert not list(folder.rglob("_tmp"))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """img2dataset's own work without its further processes, which take ten seconds to start."""
    import img2dataset.main  # noqa: F401 -- the package has a function of this name

    main = sys.modules["img2dataset.main"]

    def distribute(_: int, downloader, reader, *__: int) -> None:
        assert all(done for done, _ in map(downloader, reader))

    monkeypatch.setattr(main, "multiprocessing_distributor", distribute)
    for verb in ("start", "join"):
        monkeypatch.setattr(main.LoggerProcess, verb, lambda _: None)
    monkeypatch.setattr(urllib.request, "_opener", None)


def test_tar_shards_and_what_becomes_of_each_kind(in_process: None, tmp_path: Path) -> None:
    numbers = (0, 1, 3, 7, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
    options = replace(SMALL, output_format="webdataset", encode_format="png")
    with bad_web(1.0) as web:
        urls = _few(tmp_path / "urls.tsv", web, numbers)
        first = download_list(urls, tmp_path / "out", options)
        asked = web.asked.copy()
        second = download_list(urls, tmp_path / "out", options)
        # Only the failures that may pass are asked for again: 429 and 500.
        assert web.asked - asked == Counter({"/7.jpg": 1, "/37.jpg": 1})
        third = download_list(urls, tmp_path / "out", options)
    assert (first.listed, first.tried, first.arrived, first.temporary) == (14, 14, 6, 2)
    assert (second.tried, second.arrived, second.temporary) == (2, 7, 1)
    assert (third.tried, third.arrived) == (1, 7)
    table = load(first.table)
    validate(table, images="decode")
    assert table.prompts == [f"picture {n}" for n in (0, 1, 13, 29, 31, 47, 7)]
    assert table.column("file")[0] == "round-0/images/00000.tar/00000000.png"
    reasons = "\n".join(first.failures)
    for part in ("HTTP Error 429", "HTTP Error 500", "HTTP Error 404", "HTTP Error 302"):
        assert part in reasons
    assert first.failures["Use of image disallowed by X-Robots-Tag directive"] == 2
    assert first.failures["Image decoding error"] == 2
    assert "2 may arrive next time" in str(first)
    assert "may arrive" not in str(replace(first, temporary=0))

    with pytest.raises(UnpromptError, match="image_size: 16 there, 64 now"):
        download_list(urls, tmp_path / "out", replace(options, image_size=64))


def test_addresses_that_are_not_public_are_refused(in_process: None, tmp_path: Path) -> None:
    with bad_web(1.0) as web:
        urls = _few(tmp_path / "urls.tsv", web, range(5))
        result = download_list(urls, tmp_path / "out", replace(SMALL, allow_private=False))
        assert result.failures == {"<urlopen error refused: 127.0.0.1 has no public address>": 5}
        assert result.temporary == 0
        assert not web.asked


def test_what_a_killed_run_left_of_a_shard_is_removed(in_process: None, tmp_path: Path) -> None:
    images = tmp_path / "out" / "round-0" / "images"
    (images / "00001").mkdir(parents=True)
    (images / "00001" / "00001000.jpg").write_bytes(b"half an im")
    (images / "00001.parquet").write_bytes(b"half a ta")
    (images / "_tmp").mkdir()
    with bad_web(1.0) as web:
        urls = _few(tmp_path / "urls.tsv", web, [0, 1, 3])
        result = download_list(urls, tmp_path / "out", replace(SMALL, shard_size=2))
    assert result.arrived == 2
    names = {path.name for path in images.rglob("*.jpg")}
    assert names == {"000000.jpg", "000001.jpg"}
    assert not list(images.glob("_tmp"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resize_mode": "x"}, "unknown resize_mode 'x'; choose keep_ratio"),
        ({"output_format": "zip"}, "choose files, webdataset"),
        ({"encode_format": "gif"}, "choose jpg, png, webp"),
        ({"distributor": "x"}, "choose multiprocessing, pyspark, ray"),
        ({"timeout": 0}, "timeout must be 1 or more"),
        ({"shard_size": 1}, "shard_size must be 2 or more"),
    ],
)
def test_wrong_options(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UnpromptError, match=message):
        Options(**wrong)


def test_the_verb_lists_presets_and_refuses_half_a_call(tmp_path: Path) -> None:
    run = CliRunner().invoke
    folder = str(tmp_path)
    missing = run(app, ["download", str(tmp_path / "none.csv"), "-o", folder])
    assert "cannot be read" in str(missing.exception)
    assert not (tmp_path / "settings.json").exists()
    shown = run(app, ["download", "--list"])
    assert shown.exit_code == 0
    assert "591,753 pairs" in shown.stdout
    assert run(app, ["download"]).exit_code == 2
    no_preset = run(app, ["download", "urls.csv", "-o", "x", "--urls", "list"])
    assert "--urls needs a preset" in str(no_preset.exception)
    by_hand = run(app, ["download", "cc3m", "-o", folder])
    assert "unprompt download cc3m --urls" in str(by_hand.exception)
