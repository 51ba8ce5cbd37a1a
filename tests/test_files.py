"""Files are written whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from unprompt.errors import OutputError
from unprompt.files import atomic_open, atomic_path, cache_dir


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_and_folders_made(tmp_path: Path):
    with atomic_open(tmp_path / "a" / "b" / "text.txt") as file:
        file.write("é 美\n")
    assert (tmp_path / "a" / "b" / "text.txt").read_bytes() == "é 美\n".encode()
    with atomic_open(tmp_path / "bytes.bin", "wb") as file:
        file.write(b"\x00\xff")
    assert (tmp_path / "bytes.bin").read_bytes() == b"\x00\xff"


def test_the_file_appears_only_when_whole_and_with_the_usual_rights(tmp_path: Path):
    path = tmp_path / "new.txt"
    with atomic_open(path) as file:
        file.write("half")
        file.flush()
        assert not path.exists()
    usual = tmp_path / "usual.txt"
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


def test_an_error_of_the_block_passes_and_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "old.txt"
    path.write_text("old")

    def write_and_fail() -> None:
        with atomic_open(path) as file:
            file.write("new")
            raise KeyError("not of the file")

    with pytest.raises(KeyError):
        write_and_fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["old.txt"]


def test_an_error_about_another_file_is_not_blamed_on_the_output(tmp_path: Path):
    def read_absent() -> None:
        with atomic_open(tmp_path / "new.txt"):
            (tmp_path / "absent.txt").read_text()

    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        read_absent()
    assert names(tmp_path) == []


def test_the_temporary_path_keeps_the_suffix_and_the_folder(tmp_path: Path):
    with atomic_path(tmp_path / "image.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"x")
    assert names(tmp_path) == ["image.png"]


def test_unwritable_outputs(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    # /proc takes no new files, not even from root.
    for path in (tmp_path / "file" / "below", tmp_path / "folder", Path("/proc/new"), "/dev/null"):
        with pytest.raises(OutputError, match=f"cannot write {path}"), atomic_open(path) as file:
            file.write("x")
    assert not Path("/dev/null").is_file()
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file", "folder"]


FULL_DISK = """
import resource, sys
from unprompt.errors import OutputError
from unprompt.files import atomic_open

# No file may grow beyond 64 KiB: a write fails as it does on a full disk, in its middle.
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    with atomic_open(sys.argv[1], sys.argv[2]) as file:
        for _ in range(int(sys.argv[3])):
            file.write("x" * 100 if sys.argv[2] == "w" else b"x" * 100)
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("mode", ["w", "wb"])
# The second fits into Python's buffer but for the last flush, so that closing the file fails.
@pytest.mark.parametrize("lines", [100_000, 656])
def test_disk_full_while_saving_leaves_the_old_file(tmp_path: Path, mode: str, lines: int):
    path = tmp_path / "table.csv"
    path.write_text("old")
    # -B: Python would keep what it compiles under the limit, cut short.
    command = [sys.executable, "-B", "-c", FULL_DISK, str(path), mode, str(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {path}: File too large; the old file")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_a_really_full_disk(tmp_path: Path):
    """On a file system of 64 KiB, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a file system is not permitted here")
    try:
        (disk / "old.bin").write_bytes(b"old")
        with (
            pytest.raises(OutputError, match="No space left on device"),
            atomic_open(disk / "old.bin", "wb") as file,
        ):
            file.write(b"x" * 200_000)
        assert (disk / "old.bin").read_bytes() == b"old"
        assert names(disk) == ["old.bin"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_killed_while_writing_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "old.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys; from unprompt.files import atomic_open\n"
        "with atomic_open(sys.argv[1]) as file:\n"
        "    file.write('new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_place_of_the_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("UNPROMPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "unprompt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "unprompt"
