"""What `read` does with streams, failing disks and limits."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.reading import making
from unprompt.errors import UnreadableImageError
from unprompt.reading import read, read_fields
from unprompt.reading.limits import MAX_TEXT

PROMPT = "a heron in reeds"
TEXT = making.text("parameters", f"{PROMPT}\nSteps: 20, Seed: 1")
FILES = {
    "PNG": making.png(TEXT),
    "PNG, late text": making.png(making.chunk(b"vpAg", bytes(40_000)), late=TEXT),
    "PNG, hidden text": making.encoded(making.hide(PROMPT.encode(), b"stealth_pnginfo")),
    "JPEG": making.jpeg(
        (0xE2, bytes(60_000)), (0xE1, b"Exif\0\0" + making.comment(b"ASCII\0\0\0" + TEXT[19:-4]))
    ),
    "WebP": making.webp(EXIF=making.comment(b"ASCII\0\0\0" + TEXT[19:-4])),
}


class ShortReads(io.RawIOBase):
    """A raw stream that gives at most 7 bytes a read."""

    def __init__(self, data: bytes):
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(min(7, len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()


class FailingDisk(io.BytesIO):
    """A file whose disk fails behind ``good`` bytes."""

    good = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if self.tell() > self.good:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return data


@pytest.mark.parametrize("name", FILES)
def test_raw_streams_with_short_reads(name: str) -> None:
    reading = read(ShortReads(FILES[name]))
    assert reading is not None
    assert reading.prompt == PROMPT


@pytest.mark.parametrize("name", FILES)
def test_pipes(name: str) -> None:
    outlet, inlet = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(inlet, FILES[name]), os.close(inlet)))
    writer.start()
    with os.fdopen(outlet, "rb", buffering=0) as file:
        reading = read(file)
    writer.join()
    assert reading is not None
    assert reading.prompt == PROMPT


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_named_pipes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(FILES["PNG"]))
    writer.start()
    reading = read(pipe)
    writer.join()
    assert reading is not None
    assert reading.prompt == PROMPT


@pytest.mark.parametrize("name", ["PNG, late text", "JPEG"])
def test_a_disk_that_fails_before_the_prompt_is_an_unreadable_image(name: str) -> None:
    file = FailingDisk(FILES[name])
    file.good = 20_000
    with pytest.raises(UnreadableImageError, match=os.strerror(errno.EIO)):
        read(file)
    file.seek(0)
    assert read_fields(file) == ()


def test_a_disk_that_fails_while_pixels_are_searched_is_an_unreadable_image() -> None:
    noise = making.hide(os.urandom(90_000), b"stealth_pngcomp", (1000, 1000))
    data = making.encoded(noise, compress_level=0)
    file = FailingDisk(data)
    file.good = len(data) // 2
    with pytest.raises(UnreadableImageError, match=os.strerror(errno.EIO)):
        read(file)


def test_a_disk_that_fails_behind_the_prompt_is_a_problem() -> None:
    data = making.jpeg(
        (0xFE, f"{PROMPT}\nSteps: 20, Seed: 1".encode()),
        *[(0xE2, bytes(60_000))] * 2,
    )
    file = FailingDisk(data)
    file.good = 30_000
    reading = read(file)
    assert reading is not None
    assert reading.prompt == PROMPT
    assert os.strerror(errno.EIO) in reading.problems[0]


def test_text_mode_and_closed_files_are_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"plain")
    with path.open() as file, pytest.raises(UnreadableImageError, match="rb"):
        read(file)  # type: ignore[arg-type]
    closed = path.open("rb")
    closed.close()
    with pytest.raises(UnreadableImageError, match="closed"):
        read(closed)


@pytest.mark.parametrize(
    "data",
    [
        making.png(making.chunk(b"tEXt", b"parameters\0" + b"x" * MAX_TEXT)),
        making.png(making.ztext("parameters", "x" * (MAX_TEXT + 10))),
        making.webp(EXIF=bytes(MAX_TEXT + 1)),
        making.box(b"ftyp", b"avif\0\0\0\0") + making.box(b"meta", bytes(MAX_TEXT + 1)),
    ],
    ids=["PNG chunk", "PNG bomb", "WebP chunk", "AVIF box"],
)
def test_limits_are_told_when_nothing_else_was_read(data: bytes) -> None:
    reading = read(data)
    assert reading is not None
    assert reading.prompt is None
    assert reading.problems


def test_a_sidecar_beyond_the_limit_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(making.png())
    (tmp_path / "x.txt").write_text("x" * (MAX_TEXT + 1))
    reading = read(tmp_path / "x.png")
    assert reading is not None
    assert "x.txt" in reading.problems[0]


def run(*arguments: str, stdin: bytes = b"", encoding: str = "utf-8") -> tuple[bytes, bytes]:
    command = [sys.executable, "-c", "from unprompt.cli import main; main()", "read", *arguments]
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.stdout, done.stderr


def test_standard_input() -> None:
    assert run("-", stdin=FILES["PNG"])[0].decode().split("\n")[0] == PROMPT


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_output_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(making.png(making.itext("parameters", "é 雪 \U0001f98a\nSteps: 2, Seed: 1")))
    assert run(str(path), encoding=encoding)[0].split(b"\n")[0].endswith(rb"\u96ea \U0001f98a")
    assert "é 雪 \U0001f98a" in run("--format", "json", str(path), encoding=encoding)[0].decode()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such file names")
def test_file_names_that_are_not_unicode(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(making.png())
    with open(path[:-4] + b".txt", "w") as file:  # noqa: PTH123
        file.write(f"{PROMPT}\nSteps: 20, Seed: 1")
    output, _ = run("--all", "--format", "json", str(tmp_path))
    assert "\ufffd.png" in output.decode()
    assert path.hex() in output.decode()
    assert PROMPT in run(str(tmp_path))[0].decode()
