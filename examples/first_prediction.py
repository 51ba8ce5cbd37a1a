"""Prompts for a few photographs, and for an image that carries its prompt; no torch needed."""

from pathlib import Path

import skimage
from PIL import Image

from unprompt import Predictor, write_prompt
from unprompt.predicting.output import write_answers

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg")


def main(folder: Path = Path("demo")) -> None:
    """Print an answer for each image."""
    import sys

    folder.mkdir(exist_ok=True)
    carrier = folder / "carries_its_prompt.png"
    picture = Image.radial_gradient("L").convert("RGB")
    write_prompt(picture, carrier, "a glowing moon behind thin clouds, ink wash, high contrast")
    photographs = Path(skimage.__file__).parent / "data"
    images = [carrier, *(photographs / name for name in PHOTOGRAPHS)]
    for _ in write_answers(Predictor(top_k=3).stream(images), sys.stdout):
        pass


if __name__ == "__main__":
    main()
