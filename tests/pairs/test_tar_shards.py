from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unprompt.pairs.tar_shards import read_member, split_member

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@given(
    st.dictionaries(
        NAMES.filter(lambda name: name not in (".", "..")), st.binary(max_size=2000), max_size=8
    )
)
def test_every_member_comes_back(tmp_path_factory, members):
    shard = tmp_path_factory.mktemp("shards") / "00000.tar"
    write_tar(shard, members)
    for name, content in members.items():
        assert read_member(shard, name) == content
        assert split_member(f"deep/00000.tar/{name}") == ("deep/00000.tar", name)


def test_a_member_may_be_named_like_a_shard():
    assert split_member("a.tar/folder/b.tar/c.png") == ("a.tar", "folder/b.tar/c.png")


def test_long_names_and_folders_are_found(tmp_path):
    name = "folder/" + "x" * 300 + ".png"
    write_tar(tmp_path / "a.tar", {name: b"1", "other": b"22"})
    assert read_member(tmp_path / "a.tar", name) == b"1"
    assert read_member(tmp_path / "a.tar", "other") == b"22"


@pytest.mark.parametrize("file", ["a/b.png", "a.tar", "a.tarball/b", "tar/b"])
def test_a_plain_path_is_no_member(file):
    assert split_member(file) is None


def test_what_is_not_there_is_an_error(tmp_path):
    write_tar(tmp_path / "a.tar", {"x": b"1"})
    with pytest.raises(KeyError):
        read_member(tmp_path / "a.tar", "y")
    with pytest.raises(OSError, match="gone"):
        read_member(tmp_path / "gone.tar", "x")
    (tmp_path / "no.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(KeyError, match="not a readable tar"):
        read_member(tmp_path / "no.tar", "x")


def test_a_shard_cut_off_inside_a_member_is_an_error(tmp_path):
    shard = tmp_path / "a.tar"
    write_tar(shard, {"x": b"1" * 5000})
    os.truncate(shard, 3000)
    with pytest.raises((OSError, KeyError)):
        read_member(shard, "x")


def test_a_shard_that_was_written_again_is_read_again(tmp_path):
    shard = tmp_path / "a.tar"
    write_tar(shard, {"x": b"1"})
    assert read_member(shard, "x") == b"1"
    write_tar(shard, {"y": b"2" * 20_000, "x": b"3"})
    assert read_member(shard, "x") == b"3"
