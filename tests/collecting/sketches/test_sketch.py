import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from unprompt.collecting.compose import compose
from unprompt.collecting.sketches import scene as scenes
from unprompt.collecting.sketches.scene import COLOURS, STYLES, Group, Scene, read_scene
from unprompt.collecting.sketches.sketch import SketchBackend, draw
from unprompt.errors import UnpromptError


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "a pencil sketch of a striped red cat to the left of a tiny blue car on a beach",
            Scene(
                (Group("cat", 1, "red", "striped"), Group("car", 1, "blue", None, "tiny")),
                "to the left of",
                "on a beach / on the sand by the sea / at the seaside",
                "pencil sketch",
            ),
        ),
        ("three dotted pine trees", Scene((Group("pine tree", 3, None, "dotted"),))),
        ("3 gray SNOWMEN", Scene((Group("snowman", 3, "grey"),))),
        ("violet wolves and cacti", Scene((Group("cactus", 2),))),
        ("a scar, a catalogue and nothing else", Scene(())),
    ],
)
def test_prompts_are_read(prompt: str, expected: Scene) -> None:
    assert read_scene(prompt) == expected


def test_every_composed_scene_is_read_whole() -> None:
    for prompt in compose(2000, style="sketch"):
        scene = read_scene(prompt)
        assert scene.groups, prompt
        assert all(group.colour for group in scene.groups), prompt
        assert (scene.style is not None) == any(style in prompt for style in STYLES)
        assert (scene.setting is not None) == any(s in prompt for s in scenes.settings())
        assert len(scene.groups) == 2 or scene.relation is None
        stated = sum(f"{word} " in prompt for word in scenes.COUNTS)
        assert sum(group.count > 1 for group in scene.groups) == min(stated, 1), prompt


@pytest.mark.parametrize("noun", sorted(scenes.nouns()))
def test_every_thing_is_drawn_in_its_colour(noun: str) -> None:
    pixels = np.asarray(draw(f"a purple {noun} on a plain white background", 64))
    wanted = np.array([int(COLOURS["purple"][i : i + 2], 16) for i in (1, 3, 5)])
    assert (np.abs(pixels.astype(int) - wanted).sum(-1) < 60).mean() > 0.01
    others = [np.asarray(draw(f"a purple {n}", 64)) for n in ("circle", "fish")]
    assert sum(np.array_equal(pixels, other) for other in others) <= (noun in ("circle", "fish"))


def test_settings_styles_and_textures_all_look_different() -> None:
    headings = {heading: phrase for phrase, heading in scenes.settings().items()}
    places = {draw(f"a red apple {phrase}", 48).tobytes() for phrase in headings.values()}
    assert len(places) == len(headings)
    variants = ["a red apple", *(f"a {style} of a red apple" for style in STYLES)]
    variants += [f"a {texture} red apple" for texture in scenes.TEXTURES]
    variants += [f"a {size} red apple" for size in scenes.SIZES]
    assert len({draw(v, 48).tobytes() for v in variants}) == len(variants)


@pytest.mark.parametrize(
    ("relation", "axis", "first_is_smaller"),
    [
        ("to the left of", 1, True),
        ("to the right of", 1, False),
        ("above", 0, True),
        ("below", 0, False),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_positions_are_as_stated(
    relation: str, axis: int, first_is_smaller: bool, seed: int
) -> None:
    picture = draw(f"a red circle {relation} a blue circle on white paper", 96, seed)
    pixels = np.asarray(picture).astype(int)
    red = np.argwhere((pixels[..., 0] > 180) & (pixels[..., 2] < 90))[:, axis].mean()
    blue = np.argwhere((pixels[..., 2] > 160) & (pixels[..., 0] < 90))[:, axis].mean()
    assert (red < blue) == first_is_smaller


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_counts_are_as_stated(count: int) -> None:
    words = {v: k for k, v in scenes.COUNTS.items()}
    what = "a red circle" if count == 1 else f"{words[count]} red circles"
    pixels = np.asarray(draw(f"{what} on a plain white background", 160)).astype(int)
    _, found = label((pixels[..., 0] > 150) & (pixels[..., 2] < 120))
    assert found == count


def test_the_seed_moves_things_and_nothing_else_decides() -> None:
    prompt = "two green fish under water"
    assert draw(prompt, 64, 1).tobytes() == draw(prompt, 64, 1).tobytes()
    assert draw(prompt, 64, 1).tobytes() != draw(prompt, 64, 2).tobytes()


def test_the_same_picture_in_another_process() -> None:
    code = (
        "from unprompt.collecting.sketches.sketch import draw; import hashlib; "
        "print(hashlib.sha256(draw('a crayon drawing of a horse', 64, 9).tobytes()).hexdigest())"
    )
    here = hashlib.sha256(draw("a crayon drawing of a horse", 64, 9).tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@settings(max_examples=40)
@given(prompt=st.text(max_size=60), seed=st.integers(0, 2**32 - 1), size=st.integers(16, 40))
def test_any_text_is_drawn(prompt: str, seed: int, size: int) -> None:
    picture = draw(prompt, size, seed)
    assert picture.mode == "RGB"
    assert picture.size == (size, size)


def test_unknown_prompts_differ() -> None:
    pictures = {draw(f"thought number {n}", 32).tobytes() for n in range(20)}
    assert len(pictures) == 20


def test_sizes_out_of_bounds_are_refused() -> None:
    for size in (15, 2049):
        with pytest.raises(UnpromptError, match=f"{size} pixels"):
            draw("a cat", size)
        with pytest.raises(UnpromptError, match=f"{size} pixels"):
            SketchBackend(size)


def test_every_stroke_is_of_a_known_kind() -> None:
    kinds = {"polygon", "ellipse", "line", "arc"}
    for name, more in (("things", set()), ("settings", {"fade", "scatter", "streaks"})):
        for heading, drawing in scenes.strokes(name).items():
            assert {stroke.shape for stroke in drawing} <= kinds | more, heading
            for stroke in drawing:
                assert len(stroke.points) >= 2, heading
