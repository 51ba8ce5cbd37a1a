"""HEIC and AVIF files as true encoders write them; reading them takes no decoder.

pillow-heif's source is under the BSD licence, but its wheels hold x265 (GPL), so that it is no
dependency: one small file that it wrote is kept here, and where it is installed it writes others.
"""

from __future__ import annotations

import base64
import io
import zlib

import pytest
from PIL import Image

from tests.reading import making
from unprompt.reading import read

HEIC = (
    "eNptk89rE0EUx99mTRuk1mJVikhJI0htTTaJgia2Jdi0EJCKtV70oJvZSTOyP4bdabO9tVAq3lTQgxf7B4gevPVk"
    "/wPxIqKHXvTgRXsrUolvJpulFock773vfN6blze7AHC2IVZ4kzICuBzWKEjfYWYDINHrUGFCZ400LduPfOCMCDi0"
    "ZpntqSLVCuigSS8x3rG4zkNCKbdiZRMpqex2FW0Df+qMuQ0Vyt1TGFCViExzmRTggKjJkjMhU/hYLOrybzgUTM5t"
    "RkzBPNfwrcZ46Niqbj9nwoGoJuwz7nO0XxknHtolPGVa06X0REHDv2D/z94ewHH9AWYMVbQ+rd2WgC4JXX6GtxIV"
    "EzcvXNe0Qzub6bXkix9vXn7fGdl8vwrQtyrl9TrSPVVtO9h+jGcMEs/2XWKHqB6DHkTgJAs4jSZVib6jxDZlYwNR"
    "78q22+0PcoxdK3XOQqZGmEql0Awx7nSvUQMtuZbQk+uyHvNpI9L7iRUQzNZU5U6kd6LEgmOZ8rozo9rb5InBGzu/"
    "t+avvfo48eXT5/vvvlVe/zy9v/n87sDT3Xuyy57OldRqY5BSB7JHR1TRM3ELG8964SF6FyPlzlxt+mZ1BsCENPhA"
    "wULbAA9COApzGC/ijgAGy+ingSPjgYNWQBljC6NFJG9jTFENlFqEPB6QRpWqilK7MhGWQ4fLxzqNz4MblMPJjGl5"
    "dVpGX8pGZmoCn5byfHU2IjCazDSF4GXDaLVaudalnOcvGoVSqWTki0axmEUiG6y4wgyzbnAuE+VZJE7jS76tkixi"
    "UJs61BWBUcgVjC5LcWQx7QY51VKOeI4hdxDNxyi2/38yNPk/YI0LchnpmVDECQw11UggLOMAYBTz+avZfDFbLHUH"
    "UKUB8ZHH1yctY7PuLWEhWZ2Xp31qCs9f8Dx7MnPbc2jds1Yw0TiUGSk4TPTi0U/9BZSoECA="
)
"""16 x 16 pixels of libheif 1.23.6 with x265, an EXIF UserComment and XMP; zlib, base64."""


def test_a_heic_file() -> None:
    data = zlib.decompress(base64.b64decode(HEIC))
    assert data[4:12] == b"ftypheic"
    reading = read(data)
    assert reading is not None
    assert (reading.prompt, reading.negative_prompt) == ("a red fox", "dog")
    assert (reading.settings.steps, reading.settings.seed) == (20, 7)
    assert [str(field) for field in reading.raw] == ["EXIF UserComment", "XMP xmp:CreatorTool"]
    assert reading.problems == ()


DRAW_THINGS = making.xmp(
    'xmp:CreatorTool="Draw Things"',
    '<exif:UserComment><rdf:Alt><rdf:li>{"c": "a boat", "uc": "dog", "seed": 3}</rdf:li></rdf:Alt>'
    "</exif:UserComment>",
)
COMFY = making.api(
    n3=("KSampler", {"positive": ["6", 0], "negative": ["7", 0], "model": ["4", 0], "seed": 5}),
    n6=("CLIPTextEncode", {"text": "猫 in snow"}),
    n7=("CLIPTextEncode", {"text": "dog"}),
    n9=("SaveImage", {"images": ["3", 0]}),
)
WRITTEN = [
    ({"exif": making.comment(b"UNICODE\0" + making.A1111.encode("utf-16-be"))},
     "a red fox, <lora:add_detail:0.8>"),
    ({"exif": making.comment(b"ASCII\0\0\0" + making.A1111.encode())},
     "a red fox, <lora:add_detail:0.8>"),
    ({"exif": making.exif({0x0110: b"prompt:" + COMFY.encode() + b"\0"})}, "猫 in snow"),
    ({"exif": making.comment(COMFY.encode())}, "猫 in snow"),
    ({"xmp": DRAW_THINGS}, "a boat"),
    ({}, None),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "prompt"), WRITTEN)
def test_avif_as_pillow_writes_it(texts: dict[str, bytes], prompt: str | None) -> None:
    reading = read(making.encoded(Image.new("RGB", (16, 16), "teal"), "AVIF", **texts))
    assert (reading and reading.prompt) == prompt


@pytest.mark.parametrize(("texts", "prompt"), WRITTEN)
def test_heic_as_pillow_heif_writes_it(texts: dict[str, bytes], prompt: str | None) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (GPL wheels)")
    image = heif.from_pillow(Image.new("RGB", (16, 16), "teal"))
    file = io.BytesIO()
    image.save(file, **texts)
    reading = read(file.getvalue())
    assert (reading and reading.prompt) == prompt
