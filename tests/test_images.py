"""Whatever comes as an image becomes plain RGB, or one clear error."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unprompt import images
from unprompt.errors import UnreadableImageError
from unprompt.images import MAX_PIXELS, find_images, open_rgb, pixels_to_decode
from unprompt.reading import read

FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Left half red, right half blue, with noise that keeps files from being tiny."""
    pixels = np.random.default_rng(0).integers(0, 40, (height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] += 200
    pixels[:, width // 2 :, 2] += 200
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(width: int, height: int, colour_type: int, bits: int = 8, *before: bytes) -> bytes:
    """A PNG of any size that is all zeros, made without an image of that size in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    packer = zlib.compressobj(1)
    row = bytes(1 + (width * channels * bits + 7) // 8)
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(b[:4], b[4:]) for b in before)]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts, chunk(b"IDAT", data), chunk(b"IEND", b"")])


def is_red(colour: tuple[int, ...]) -> bool:
    return colour[0] > 150 and colour[2] < 90


def is_blue(colour: tuple[int, ...]) -> bool:
    return colour[2] > 150 and colour[0] < 90


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_from_every_kind_of_source(kind: str, tmp_path: Path):
    content = encoded(picture(), kind)
    path = tmp_path / "image"
    path.write_bytes(content)
    with path.open("rb") as file:
        decoded = [open_rgb(source) for source in (path, str(path), content, file)]
    decoded.append(open_rgb(Image.open(path)))
    for image in decoded:
        assert image.mode == "RGB"
        assert image.size == (48, 32)
        assert is_red(image.getpixel((5, 16)))
        assert is_blue(image.getpixel((43, 16)))


def test_one_pixel():
    for kind in FORMATS:
        image = open_rgb(encoded(Image.new("RGB", (1, 1), (0, 0, 255)), kind))
        assert image.size == (1, 1)
        assert is_blue(image.getpixel((0, 0)))


def test_sixteen_bits_are_scaled_not_cut():
    ramp = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        image = open_rgb(encoded(Image.fromarray(ramp), kind))
        assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 10, 128, 255)]
    colour = open_rgb(png_of(3, 2, colour_type=2, bits=16))
    assert (colour.mode, colour.size) == ("RGB", (3, 2))


def test_cmyk():
    for kind in ("JPEG", "TIFF"):
        image = open_rgb(encoded(picture().convert("CMYK"), kind))
        assert image.mode == "RGB"
        assert is_red(image.getpixel((5, 16)))
        assert is_blue(image.getpixel((43, 16)))


def test_transparency_is_laid_over_white():
    rgba = picture().convert("RGBA")
    rgba.paste((0, 0, 0, 0), (0, 0, 10, 32))
    rgba.paste((0, 0, 0, 128), (20, 0, 24, 32))
    for kind, lossless in (("PNG", {}), ("WEBP", {"lossless": True})):
        image = open_rgb(encoded(rgba, kind, **lossless))
        assert image.getpixel((5, 16)) == (255, 255, 255)
        assert image.getpixel((22, 16)) == (127, 127, 127)
        assert is_blue(image.getpixel((43, 16)))
    grey = open_rgb(encoded(Image.new("LA", (2, 2), (0, 0)), "PNG"))
    assert grey.getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_a_transparent_colour():
    indexed = Image.new("P", (4, 2))
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    indexed.putdata([0, 1, 2, 0, 0, 1, 2, 0])
    for kind in ("PNG", "GIF"):
        image = open_rgb(encoded(indexed, kind, transparency=0))
        assert [image.getpixel((x, 0)) for x in range(4)] == [
            (255, 255, 255),
            (255, 0, 0),
            (0, 0, 255),
            (255, 255, 255),
        ]
    partly = open_rgb(encoded(indexed, "PNG", transparency=bytes([255, 128, 0])))
    assert [partly.getpixel((x, 0)) for x in range(3)] == [
        (0, 0, 0),
        (255, 127, 127),
        (255, 255, 255),
    ]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "F", "I", "LAB", "HSV", "YCbCr"])
def test_other_modes_of_pil_images(mode: str):
    source = picture().convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (48, 32))
    image = open_rgb(source)
    assert (image.mode, image.size) == ("RGB", (48, 32))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame(kind: str):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    animation = Image.open(io.BytesIO(content))
    assert animation.n_frames == 3
    animation.seek(2)
    for source in (content, animation):
        assert is_red(open_rgb(source).getpixel((8, 8)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_turned_upright_as_exif_says(kind: str, orientation: int):
    upright = picture()
    # How the camera stored it: what EXIF's orientation undoes.
    turn = Image.Transpose
    stored = {
        2: [turn.FLIP_LEFT_RIGHT],
        3: [turn.ROTATE_180],
        4: [turn.FLIP_TOP_BOTTOM],
        5: [turn.TRANSPOSE],
        6: [turn.ROTATE_90],
        7: [turn.TRANSVERSE],
        8: [turn.ROTATE_270],
    }
    image = upright
    for step in stored.get(orientation, []):
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = open_rgb(encoded(image, kind, exif=exif))
    assert decoded.size == upright.size
    assert is_red(decoded.getpixel((5, 16)))
    assert is_blue(decoded.getpixel((43, 16)))
    assert decoded.getexif().get(0x0112, 1) == 1


def test_a_source_image_is_not_changed():
    exif = Image.Exif()
    exif[0x0112] = 6
    source = Image.open(io.BytesIO(encoded(picture(), "JPEG", exif=exif)))
    assert open_rgb(source).size == (32, 48)
    assert source.size == (48, 32)


def test_large_jpegs_may_be_decoded_smaller_but_never_too_small():
    content = encoded(picture(1600, 1000), "JPEG")
    assert open_rgb(content, at_least=224).size == (400, 250)
    assert open_rgb(content, at_least=600).size == (1600, 1000)
    assert open_rgb(content, at_least=3000).size == (1600, 1000)
    assert open_rgb(encoded(picture(1600, 1000).convert("CMYK"), "JPEG"), 224).mode == "RGB"
    assert open_rgb(encoded(picture(), "PNG"), at_least=8).size == (48, 32)
    of_a_phone = encoded(picture(1600, 1000), "MPO", save_all=True, append_images=[picture()])
    assert open_rgb(of_a_phone, at_least=224).size == (400, 250)


def test_pixels_to_decode_are_known_from_the_header():
    content = encoded(picture(1600, 1000), "JPEG")
    assert pixels_to_decode(content) == 1600 * 1000
    assert pixels_to_decode(content, at_least=224) == 400 * 250
    assert pixels_to_decode(png_of(9000, 9000, 0)[:60]) == 9000 * 9000
    assert pixels_to_decode(png_of(10_001, 10_000, 0)) == 0
    assert pixels_to_decode(b"no image") == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_truncated(kind: str, tmp_path: Path):
    content = encoded(picture(), kind)
    path = tmp_path / "half.png"
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnreadableImageError, match=str(path)):
            open_rgb(path)


def test_what_is_no_image(tmp_path: Path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("a portrait of a cat, masterpiece")
    (tmp_path / "folder.png").mkdir()
    expected = {
        "absent.png": "no such file",
        "empty.png": r"the file is empty \(0 bytes\)",
        "text.png": "not an image, or its format is not supported",
        "folder.png": "is a folder, not an image",
        "text.png/below.png": "cannot be decoded",
    }
    for name, message in expected.items():
        with pytest.raises(UnreadableImageError, match=f"^{tmp_path / name}: {message}"):
            open_rgb(tmp_path / name)
    for source in (b"", b"text", io.BytesIO(b"")):
        with pytest.raises(UnreadableImageError, match=r"^image: not an image"):
            open_rgb(source)


@given(
    kind=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))),
    kept=st.floats(0, 1),
)
def test_damage_gives_an_image_or_our_error_and_nothing_else(
    kind: str, changes: list[tuple[float, int]], kept: float
):
    content = bytearray(encoded(picture(), kind))
    for place, value in changes:
        content[int(place * len(content))] = value
    try:
        image = open_rgb(bytes(content[: int(kept * len(content)) + 1]))
    except UnreadableImageError:
        return
    assert image.mode == "RGB"


MEASURED = """
import sys
from pathlib import Path
from unprompt.errors import UnreadableImageError
from unprompt.images import open_rgb
try:
    print(open_rgb(sys.argv[1]).size)
except UnreadableImageError as error:
    print(error)
# Not ru_maxrss of getrusage, which counts the memory of the process that started this one too.
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def measured(path: Path) -> tuple[str, int]:
    """What opening an image gives in a process of its own, and its highest memory in bytes."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells a process its highest memory")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True
    )
    answer, kilobytes = done.stdout.splitlines()
    return answer, 1024 * int(kilobytes)


def test_a_decompression_bomb_is_refused_by_the_stated_limit(tmp_path: Path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(30_000, 30_000, colour_type=0, bits=1))
    answer, memory = measured(path)
    assert answer.startswith(f"{path}: ")
    assert "100,000,000; scale the image down first" in answer
    assert memory < 200e6


def test_just_above_the_limit_is_refused_too(tmp_path: Path):
    path = tmp_path / "large.png"
    path.write_bytes(png_of(10_000, MAX_PIXELS // 10_000 + 1, colour_type=0, bits=1))
    answer, memory = measured(path)
    assert answer == (
        f"{path}: 10000 x 10001 pixels are more than the limit of 100,000,000; "
        "scale the image down first"
    )
    assert memory < 200e6


@pytest.mark.parametrize(
    ("colour_type", "bits"), [(6, 8), (0, 16), (3, 8)], ids=["RGBA", "16-bit", "palette"]
)
def test_at_the_limit_memory_stays_below_one_gigabyte(tmp_path: Path, colour_type: int, bits: int):
    path = tmp_path / "largest.png"
    palette = [b"PLTE" + bytes(6), b"tRNS" + bytes([0, 255])] if colour_type == 3 else []
    path.write_bytes(png_of(10_000, 10_000, colour_type, bits, *palette))
    answer, memory = measured(path)
    assert answer == "(10000, 10000)"
    assert memory < 1e9


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "c.txt", ".hidden.png", "in/d.webp", "in/.git/e.png", "x.dir/f"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def found(tree: Path, *inputs: str, recursive: bool = False) -> list[str]:
    paths = find_images([tree / item for item in inputs], recursive)
    return [path.relative_to(tree).as_posix() for path in paths]


def test_a_folder_gives_its_images_by_name(tree: Path):
    assert found(tree, ".") == ["a.JPG", "b.png"]
    assert found(tree, ".", recursive=True) == ["a.JPG", "b.png", "in/d.webp"]
    assert found(tree, "folder.png") == []


def test_patterns(tree: Path):
    assert found(tree, "*.png") == ["b.png"]
    assert found(tree, "[ab].*") == ["a.JPG", "b.png"]
    assert found(tree, "**/*.webp") == ["in/d.webp"]


def test_inputs_keep_their_order_and_come_once(tree: Path):
    assert found(tree, "in", "b.png", "*.png", ".") == ["in/d.webp", "b.png", "a.JPG"]


def test_what_is_not_there_is_not_lost(tree: Path):
    assert found(tree, "absent.png", "b.png", "no*.png") == ["absent.png", "b.png", "no*.png"]
    for path in find_images([tree / "no*.png"]):
        with pytest.raises(UnreadableImageError, match="no such file"):
            open_rgb(path)


def test_a_file_named_outright_may_have_any_suffix_and_odd_names(tree: Path):
    (tree / "image [1].png").touch()
    assert found(tree, "c.txt", "image [1].png") == ["c.txt", "image [1].png"]


@pytest.mark.parametrize("held", [1, 2, 3, 100])
def test_a_walk_gives_what_sorting_every_path_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
):
    names = ["a.png", "a/z.png", "a b.png", "a-b/x.jpg", "A.png", "b/a/c/d.png", "b.png/in.gif"]
    names += ["b/a.png", "é.png", "c/only.txt", "d/e/.f/g.png", "d/e/f.webp", "a/b.png", "a/c.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "b/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b/link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "b/broken.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "b/itself.png").symlink_to(tmp_path / "b/itself.png")
    (tmp_path / "b/folder.png").symlink_to(tmp_path / "a", target_is_directory=True)
    monkeypatch.setattr(images, "_HELD_NAMES", held)
    kept = [*(set(names) - {"c/only.txt", "d/e/.f/g.png"}), "b/link.png"]
    assert found(tmp_path, ".", recursive=True) == [str(p) for p in sorted(map(Path, kept))]
    assert found(tmp_path, ".") == ["A.png", "a b.png", "a.png", "é.png"]


def test_folders_within_folders_give_each_image_once(tree: Path):
    (tree / "link").symlink_to(tree / "in", target_is_directory=True)
    every = ["a.JPG", "b.png", "in/d.webp"]
    others = [".hidden.png", "c.txt", "absent.png"]
    assert found(tree, ".", "in", "b.png", *others, "*.png", recursive=True) == [*every, *others]
    assert found(tree, "in", ".", "in/.git", "link", recursive=True) == [
        *("in/d.webp", "a.JPG", "b.png"),
        *("in/.git/e.png", "link/d.webp"),
    ]
    assert found(tree, ".", "in", "a.JPG", "in/d.webp") == every


def test_a_folder_is_walked_as_its_images_are_asked_for(tree: Path):
    paths = find_images([tree], recursive=True)
    assert next(paths) == tree / "a.JPG"
    (tree / "in" / "a.png").touch()
    assert [path.name for path in paths] == ["b.png", "a.png", "d.webp"]


def test_a_folder_that_cannot_be_listed_is_named_in_its_place(
    tree: Path, monkeypatch: pytest.MonkeyPatch
):
    scandir = os.scandir

    def refuse(path: Path):
        if path.name == "in":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    (tree / "z.png").touch()
    monkeypatch.setattr(os, "scandir", refuse)
    assert found(tree, ".", recursive=True) == ["a.JPG", "b.png", "in", "z.png"]
    assert found(tree, "in") == ["in"]
    for opened in (open_rgb, read):
        with pytest.raises(UnreadableImageError, match=r"in: .* listed \(Permission denied\)"):
            opened(tree / "in")
