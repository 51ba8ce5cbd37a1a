import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.collecting.urls.web import served
from unprompt.collecting.urls.preset_list import fetch_list, load_presets, to_text
from unprompt.collecting.urls.url_list import read_list
from unprompt.errors import UnpromptError


def test_presets_are_whole() -> None:
    presets = load_presets()
    names = {"mscoco", "sbucaptions", "cc3m", "cc12m", "laion400m", "laion2b-en", "diffusiondb"}
    assert set(presets) == names
    text = to_text(presets)
    for preset in presets.values():
        assert preset.list.startswith("https://")
        assert preset.terms.startswith("https://")
        assert preset.licence in text
        assert preset.terms in text
        assert preset.pairs > 500_000
        assert preset.checked


def test_what_has_to_be_fetched_by_hand_says_how(tmp_path: Path) -> None:
    with pytest.raises(UnpromptError, match="unprompt download cc3m --urls"):
        fetch_list(load_presets()["cc3m"], tmp_path)


def test_a_list_is_fetched_once_and_read_with_the_presets_columns(tmp_path: Path) -> None:
    preset = load_presets()["cc12m"]
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "cc12m.tsv").write_text('http://a/1\ta "cat\nhttp://a/2\tdog\n')
    with served(tmp_path / "web") as address:
        path = fetch_list(replace(preset, list=f"{address}/cc12m.tsv"), tmp_path / "out")
    rows = list(read_list(path, preset.url_columns, preset.caption_columns, preset.header))
    assert rows == [("http://a/1", 'a "cat'), ("http://a/2", "dog")]
    assert fetch_list(replace(preset, list="http://127.0.0.1:9/x"), tmp_path / "out") == path


def test_a_list_in_an_archive(tmp_path: Path) -> None:
    preset = load_presets()["sbucaptions"]
    content = json.dumps(
        {"image_urls": ["http://a/1"], "user_ids": ["u"], "captions": ["a cat"]}
    ).encode()
    (tmp_path / "web").mkdir()
    with tarfile.open(tmp_path / "web" / "sbu.tar.gz", "w:gz") as tar:
        for name, data in (("README", b"x"), ("sbu-captions-all.json", content)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "web" / "broken.tar.gz").write_bytes(b"no archive")
    with served(tmp_path / "web") as address:
        path = fetch_list(replace(preset, list=f"{address}/sbu.tar.gz"), tmp_path / "out")
        broken = replace(preset, name="broken", list=f"{address}/broken.tar.gz")
        with pytest.raises(UnpromptError, match="cannot be fetched"):
            fetch_list(broken, tmp_path / "out")
        gone = replace(preset, name="gone", list=f"{address}/gone.tar.gz")
        with pytest.raises(UnpromptError, match="404"):
            fetch_list(gone, tmp_path / "out")
    rows = list(read_list(path, preset.url_columns, preset.caption_columns))
    assert rows == [("http://a/1", "a cat")]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["sbucaptions.json"]
