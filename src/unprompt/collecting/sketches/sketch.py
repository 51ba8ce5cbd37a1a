"""Sketches of simple scenes, drawn with Pillow.

They replace the images of a text-to-image model in tests, the demo and the tutorials, so that the
whole pipeline runs on any computer within a minute. A model that is trained on them knows nothing
about real images.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageOps

from unprompt.collecting.images.jobs import Job
from unprompt.collecting.sketches.effects import EFFECTS
from unprompt.collecting.sketches.scene import (
    COLOURS,
    SIZES,
    Group,
    Scene,
    Stroke,
    nouns,
    read_scene,
    settings,
    strokes,
)
from unprompt.errors import UnpromptError

MIN_SIZE, MAX_SIZE = 16, 2048
_OVERSAMPLING = 2
_MAIN_SHADE = {"main": 0.0, "light": 0.35, "dark": -0.35}

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


class SketchBackend:
    """Makes sketches for `unprompt.collecting.generate.generate`.

    Args:
        size: side of the square images in pixels, 16 to 2048.

    Raises:
        UnpromptError: the size is out of range.
    """

    name = "unprompt sketch"
    licence = "CC0-1.0"
    batch_size = 1

    def __init__(self, size: int = 128):
        _check_size(size)
        self.size = size
        self.settings = {"size": size}

    def warn(self, prompt: str) -> str | None:
        """None: a sketch reads prompts of any length."""
        return None

    def draw(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """One sketch for each job."""
        return [draw(job.prompt, self.size, job.seed) for job in jobs]


def draw(prompt: str, size: int = 128, seed: int = 0) -> Image.Image:
    """Draw a prompt.

    Things, colours, counts, positions, textures, setting and style follow the prompt. The seed
    decides everything that the prompt does not state. The default setting is plain white. A prompt
    without a noun that can be drawn gives a random scene, whose things depend only on the prompt.

    Args:
        prompt: any text; `unprompt.collecting.compose.compose` with the style ``sketch`` makes
            suitable prompts.
        size: side of the square image in pixels, 16 to 2048.
        seed: random seed.

    Returns:
        An RGB image, the same in every process for the same arguments and version of Pillow.

    Raises:
        UnpromptError: the size is out of range.
    """
    _check_size(size)
    scene = read_scene(prompt)
    by_prompt = random.Random(f"scene/{prompt}")  # noqa: S311 -- not for secrets
    rng = random.Random(f"picture/{seed}/{prompt}")  # noqa: S311
    if not scene.groups:
        scene = _arbitrary(scene, by_prompt)
    setting = scene.setting or settings()["on a plain white background"]
    side = size * _OVERSAMPLING
    picture = Image.new("RGB", (side, side), "white")
    _paint(picture, strokes("settings")[setting], (0, 0, side, side), {}, rng)
    for group, box in zip(scene.groups, _boxes(scene, rng), strict=True):
        _place(picture, group, tuple(edge * side for edge in box), rng)  # type: ignore[arg-type]
    picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return EFFECTS[scene.style](picture) if scene.style else picture


def _check_size(size: int) -> None:
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UnpromptError(f"cannot draw at {size} pixels; choose {MIN_SIZE} to {MAX_SIZE}")


def _arbitrary(scene: Scene, rng: random.Random) -> Scene:
    things = [
        Group(rng.choice(list(nouns())), rng.randint(1, 3), rng.choice(list(COLOURS)))
        for _ in range(rng.randint(1, 2))
    ]
    phrases = list(dict.fromkeys(settings().values()))
    return Scene(tuple(things), None, scene.setting or rng.choice(phrases), scene.style)


def _boxes(scene: Scene, rng: random.Random) -> list[Box]:
    """Box of each group, as fractions of the image's side."""
    shift = rng.uniform(-0.04, 0.04)
    if len(scene.groups) == 1:
        return [(0.12 + shift, 0.14, 0.88 + shift, 0.9)]
    first: Box = (0.02, 0.26 + shift, 0.49, 0.8 + shift)
    second: Box = (0.51, 0.26 + shift, 0.98, 0.8 + shift)
    if scene.relation in ("above", "below"):
        first, second = (0.24 + shift, 0.01, 0.76 + shift, 0.49), (0.24, 0.51, 0.76, 0.99)
    swap = rng.random() < 0.5 if scene.relation in (None, "beside") else False
    if scene.relation in ("to the right of", "below") or swap:
        return [second, first]
    return [first, second]


def _place(picture: Image.Image, group: Group, box: Box, rng: random.Random) -> None:
    """Draw the things of one group side by side in rows that fill the box."""
    columns = {1: 1, 2: 2, 3: 2, 4: 2}.get(group.count, 3)
    rows = -(-group.count // columns)
    cell = min((box[2] - box[0]) / columns, (box[3] - box[1]) / rows)
    colour = ImageColor.getrgb(COLOURS[group.colour or rng.choice(list(COLOURS))])[:3]
    middle_x, middle_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    scale = SIZES.get(group.size or "", 0.92 if group.count > 1 else 1.0)
    for index in range(group.count):
        row, column = divmod(index, columns)
        in_row = min(columns, group.count - row * columns)
        x = middle_x + (column - (in_row - 1) / 2) * cell + rng.uniform(-0.03, 0.03) * cell
        y = middle_y + (row - (rows - 1) / 2) * cell + rng.uniform(-0.03, 0.03) * cell
        half = cell * scale * rng.uniform(0.46, 0.5)
        _stamp(picture, group, (x - half, y - half, x + half, y + half), colour, rng)


def _stamp(
    picture: Image.Image, group: Group, box: Box, colour: Colour, rng: random.Random
) -> None:
    side = max(4, round(box[2] - box[0]))
    key = (1, 2, 3)
    palette = {name: _shade(colour, by) for name, by in _MAIN_SHADE.items()}
    layer = Image.new("RGB", (side, side), key)
    heading = f"{group.noun} / {nouns()[group.noun]}"
    _paint(layer, strokes("things")[heading], (0, 0, side, side), palette, rng)
    if group.texture:
        pattern = _pattern(group.texture, side)
        light = sum(colour) > 380
        ink = _shade(colour, -0.6 if light else 0.7)
        layer.paste(ink, mask=ImageChops.multiply(_where(layer, palette["main"]), pattern))
    if rng.random() < 0.5:
        layer = ImageOps.mirror(layer)
    mask = ImageOps.invert(_where(layer, key))
    picture.paste(layer, (round(box[0]), round(box[1])), mask)


def _paint(
    picture: Image.Image,
    drawing: Sequence[Stroke],
    box: Box,
    palette: dict[str, Colour],
    rng: random.Random,
) -> None:
    pen = ImageDraw.Draw(picture)
    scale = (box[2] - box[0]) / 100
    for stroke in drawing:
        colour = _colour(stroke.words[0], palette)
        numbers = [float(word) for word in stroke.words[1:] if stroke.shape != "fade"]
        points = [(box[0] + x * scale, box[1] + y * scale) for x, y in stroke.points]
        if stroke.shape == "polygon":
            pen.polygon(points, fill=colour)
        elif stroke.shape == "ellipse":
            pen.ellipse(points, fill=colour)
        elif stroke.shape == "line":
            width = max(1, round(numbers[0] * scale))
            pen.line(points, fill=colour, width=width, joint="curve")
        elif stroke.shape == "arc":
            width = max(1, round(numbers[0] * scale))
            pen.arc(points, numbers[1], numbers[2], fill=colour, width=width)
        elif stroke.shape == "fade":
            _fade(pen, colour, _colour(stroke.words[1], palette), points)
        elif stroke.shape in ("scatter", "streaks"):
            _scatter(pen, stroke.shape, colour, int(numbers[0]), numbers[1] * scale, points, rng)
        else:
            raise ValueError(f"unknown stroke '{stroke.shape}'")


def _fade(
    pen: ImageDraw.ImageDraw, top: Colour, bottom: Colour, corners: list[tuple[float, float]]
) -> None:
    (left, upper), (right, lower) = corners
    for y in range(round(upper), round(lower) + 1):
        share = (y - upper) / max(1.0, lower - upper)
        mixed = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        pen.line([(left, y), (right, y)], fill=mixed)


def _scatter(
    pen: ImageDraw.ImageDraw,
    shape: str,
    colour: Colour,
    count: int,
    size: float,
    corners: list[tuple[float, float]],
    rng: random.Random,
) -> None:
    (left, upper), (right, lower) = corners
    for _ in range(count):
        x, y = rng.uniform(left, right), rng.uniform(upper, lower)
        if shape == "scatter":
            radius = size / 2 * rng.uniform(0.7, 1.3)
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
        else:
            pen.line([(x, y), (x - size * 0.25, y + size)], fill=colour, width=2)


def _colour(word: str, palette: dict[str, Colour]) -> Colour:
    return palette[word] if word in palette else ImageColor.getrgb(word)[:3]


def _shade(colour: Colour, by: float) -> Colour:
    """Lighter for a positive share, darker for a negative one."""
    target = 255 if by > 0 else 0
    red, green, blue = (round(value + (target - value) * abs(by)) for value in colour)
    return red, green, blue


def _where(image: Image.Image, colour: Colour) -> Image.Image:
    """255 where the image has exactly this colour, 0 elsewhere."""
    flat = Image.new("RGB", image.size, colour)
    bands = ImageChops.difference(image, flat).split()
    largest = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    return largest.point(lambda value: 0 if value else 255)


def _pattern(texture: str, side: int) -> Image.Image:
    pattern = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(pattern)
    step = max(4, side // 7)
    for row, y in enumerate(range(0, side, step)):
        if texture == "striped":
            pen.rectangle([0, y, side, y + step // 2], fill=255)
            continue
        for column, x in enumerate(range(0, side, step)):
            if texture == "dotted":
                pen.ellipse([x, y, x + step * 0.6, y + step * 0.6], fill=255)
            elif (row + column) % 2:
                pen.rectangle([x, y, x + step - 1, y + step - 1], fill=255)
    return pattern
