"""Images of every kind that people hand in, good and bad."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unprompt import write_prompt


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One decodable file of each unusual kind, by what is unusual."""
    folder = tmp_path_factory.mktemp("good")
    rgb = picture(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = np.linspace(0, 65535, 96 * 64).reshape(64, 96).astype(np.uint16)
    palette = rgb.quantize(16)
    files = {
        "plain.png": (rgb, {}),
        "plain.jpg": (rgb, {}),
        "plain.webp": (rgb, {}),
        "sixteen_bit.png": (Image.fromarray(grey), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "palette_transparent.png": (palette, {"transparency": 0}),
        "rotated.jpg": (rgb, {"exif": exif}),
        "one_pixel.png": (rgb.resize((1, 1)), {}),
        "animated.gif": (rgb, {"save_all": True, "append_images": [picture(1)]}),
        "animated.webp": (rgb, {"save_all": True, "append_images": [picture(1)]}),
    }
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in files}


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each undecodable kind, by what is wrong."""
    folder = tmp_path_factory.mktemp("bad")
    rgb = picture(0, (300, 200))
    contents = {"empty.png": b"", "text.png": b"this is not an image\n" * 20, "bomb.png": bomb()}
    for form in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        rgb.save(buffer, form)
        contents[f"truncated.{form.lower()}"] = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents} | {"missing.png": folder / "missing.png"}


def bomb(side: int = 30_000) -> bytes:
    """A valid PNG of ``side`` x ``side`` black pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    compressor = zlib.compressobj(9)
    row = bytes(side // 8 + 2)
    data = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="session")
def carrier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG that carries its prompt."""
    path = tmp_path_factory.mktemp("carrier") / "carrier.png"
    settings = {"seed": 7, "steps": 25, "sampler": "Euler a"}
    write_prompt(picture(3), path, "a red fox in the snow", "blurry", settings)
    return path
