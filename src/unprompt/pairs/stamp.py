"""Images saved with their prompt and settings inside, in the form of AUTOMATIC1111's web UI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286


def parameters_text(
    prompt: str, seed: int, generator: str, size: tuple[int, int], settings: Mapping[str, Any]
) -> str:
    """Prompt and settings as AUTOMATIC1111's web UI writes them.

    Source: ``create_infotext`` in that project's ``modules/processing.py``.
    """
    stated = {
        "Steps": settings.get("steps"),
        "Sampler": settings.get("sampler"),
        "CFG scale": settings.get("guidance"),
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": generator,
    }
    lines = [prompt]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    lines.append(", ".join(f"{key}: {value}" for key, value in stated.items() if value is not None))
    return "\n".join(lines)


def save_stamped(
    image: Image.Image,
    path: Path,
    prompt: str,
    seed: int,
    generator: str,
    settings: Mapping[str, Any],
) -> None:
    """Save an image with prompt and settings inside: PNG text, or EXIF's UserComment elsewhere.

    The format follows the suffix of ``path``; the bytes depend on the arguments alone.
    """
    text = parameters_text(prompt, seed, generator, image.size, settings)
    if path.suffix == ".png":
        info = PngInfo()
        info.add_text("parameters", text) if text.isascii() else info.add_itxt("parameters", text)
        image.save(path, pnginfo=info)
        return
    exif = Image.Exif()
    # EXIF 2.3, section 4.6.5: an 8-byte character code comes first, and UNICODE is UTF-16.
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
    image.save(path, exif=exif, quality=95)
