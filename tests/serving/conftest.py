"""A predictor of the built-in model, loaded once."""

import io

import pytest
from PIL import Image, PngImagePlugin

from unprompt.predicting.predictor import Predictor


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    return Predictor(top_k=2)


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A PNG file that says nothing of its prompt."""
    return _png(Image.radial_gradient("L").convert("RGB"))


@pytest.fixture(scope="session")
def stated() -> bytes:
    """A PNG file that states a prompt, a hostile one."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt("parameters", "<script>alert(1)</script>\nSteps: 20, Sampler: Euler, Seed: 5")
    return _png(Image.new("RGB", (64, 64)), chunk)


def _png(image: Image.Image, chunk: PngImagePlugin.PngInfo | None = None) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", pnginfo=chunk)
    return file.getvalue()
