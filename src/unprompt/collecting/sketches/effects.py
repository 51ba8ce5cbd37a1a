"""Styles of sketches. Each style is an effect on the finished image."""

from __future__ import annotations

import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps


def _edges(image: Image.Image) -> Image.Image:
    """White outlines on black."""
    grey = image.convert("L").filter(ImageFilter.GaussianBlur(0.6))
    bands = [band.filter(ImageFilter.FIND_EDGES) for band in (grey, *image.split())]
    largest = bands[0]
    for band in bands[1:]:
        largest = ImageChops.lighter(largest, band)
    # FIND_EDGES does not change the outermost pixels.
    ImageDraw.Draw(largest).rectangle([0, 0, image.width - 1, image.height - 1], outline=0)
    return largest.point(lambda value: min(255, value * 3))


def _pencil(image: Image.Image) -> Image.Image:
    shading = image.convert("L").point(lambda value: 200 + value * 55 // 255)
    return ImageChops.multiply(shading, ImageOps.invert(_edges(image))).convert("RGB")


def _watercolour(image: Image.Image) -> Image.Image:
    radius = max(1, image.width // 50)
    soft = image.filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.GaussianBlur(radius))
    return Image.blend(soft, Image.new("RGB", image.size, "white"), 0.35)


def _pixels(image: Image.Image) -> Image.Image:
    small = image.resize((24, 24), Image.Resampling.BOX).quantize(16).convert("RGB")
    return small.resize(image.size, Image.Resampling.NEAREST)


def _blueprint(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(_edges(image), black="#123a86", white="#e8f0ff")


def _neon(image: Image.Image) -> Image.Image:
    vivid = ImageOps.autocontrast(image).filter(ImageFilter.MaxFilter(3))
    lines = Image.composite(vivid, Image.new("RGB", image.size, "black"), _edges(image))
    glow = lines.filter(ImageFilter.GaussianBlur(max(1, image.width // 40)))
    return ImageChops.add(lines, glow)


def _woodcut(image: Image.Image) -> Image.Image:
    grey = ImageOps.autocontrast(image.convert("L"))
    grooves = Image.new("L", image.size, 255)
    pen = ImageDraw.Draw(grooves)
    for y in range(0, image.height, max(3, image.height // 40)):
        pen.line([(0, y), (image.width, y)], fill=0)
    ink = grey.point(lambda value: 255 if value > 150 else 0)
    middle = grey.point(lambda value: 255 if value > 80 else 0)
    cut = ImageChops.lighter(ink, ImageChops.multiply(middle, grooves))
    return ImageOps.colorize(cut, black="black", white="#efe3c4")


def _mosaic(image: Image.Image) -> Image.Image:
    tiles = 16
    small = image.resize((tiles, tiles), Image.Resampling.BOX)
    enlarged = small.resize(image.size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(enlarged)
    for index in range(tiles + 1):
        at = index * image.width // tiles
        pen.line([(at, 0), (at, image.height)], fill="#3a3a3a")
        pen.line([(0, at), (image.width, at)], fill="#3a3a3a")
    return enlarged


def _crayon(image: Image.Image) -> Image.Image:
    grain = _grain(image.size)
    pale = Image.blend(image, Image.new("RGB", image.size, "#fff8e7"), 0.25)
    return Image.composite(pale, Image.new("RGB", image.size, "#fff8e7"), grain)


def _grain(size: tuple[int, int]) -> Image.Image:
    """Speckles that are equal in every call; Pillow's own noise has no seed."""
    rng = random.Random("grain")  # noqa: S311
    noise = Image.frombytes("L", size, rng.randbytes(size[0] * size[1]))
    return noise.point(lambda value: 255 if value > 80 else 0)


def _sepia(image: Image.Image) -> Image.Image:
    grey = ImageOps.autocontrast(image.convert("L"))
    return ImageOps.colorize(grey, black="#2b1a0c", white="#f1dfbb", mid="#9a7448")


EFFECTS = {
    "pencil sketch": _pencil,
    "watercolour painting": _watercolour,
    "pixel art picture": _pixels,
    "blueprint": _blueprint,
    "neon sign": _neon,
    "woodcut": _woodcut,
    "mosaic": _mosaic,
    "crayon drawing": _crayon,
    "sepia photograph": _sepia,
}
"""Effect of each style, by its name in a prompt; the result is an RGB image of the same size."""
