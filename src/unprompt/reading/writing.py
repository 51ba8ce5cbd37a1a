"""Write an image with its prompt inside, so that `read` and every A1111 reader find it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from unprompt.errors import OutputError
from unprompt.files import atomic_path
from unprompt.reading.infotext import format_infotext
from unprompt.reading.result import Settings

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_MAX_JPEG_EXIF = 65_000


def write_prompt(
    image: Image.Image,
    path: str | Path,
    prompt: str,
    negative_prompt: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Save an image as PNG, JPEG or WebP with its prompt in A1111 form.

    PNG gets a ``parameters`` text chunk, JPEG and WebP an EXIF UserComment in UTF-16.

    Args:
        image: the picture.
        path: where to; its ending decides the format. Replaced whole or not at all.
        prompt: as the generator got it.
        negative_prompt: what was to be avoided.
        settings: a `Settings`, or a mapping with the names of its fields (``seed``, ``steps``,
            ``sampler``, ``guidance``, ``model``, ``width``...); other keys are written as they
            are. ``None`` values are left out.
        options: passed to Pillow's ``save``, as ``quality=95``.

    Raises:
        OutputError: the ending is none of PNG, JPEG and WebP, the A1111 form cannot hold the
            prompt (a line of it reads like a part of the form), or the place cannot be written.
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise OutputError(f"{path}: prompts are written to .png, .jpg and .webp files only")
    try:
        text = format_infotext(prompt, negative_prompt, _as_settings(settings))
    except ValueError as error:
        raise OutputError(f"{path}: {error}") from None
    if kind == "PNG":
        info = PngInfo()
        # Some readers take tEXt for Latin-1, as the standard says, others for UTF-8.
        (info.add_text if text.isascii() else info.add_itxt)("parameters", text)
        options["pnginfo"] = info
    else:
        exif = image.getexif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode(
            "utf-16-be"
        )
        options["exif"] = exif
        if kind == "JPEG" and len(text) * 2 > _MAX_JPEG_EXIF:
            raise OutputError(f"{path}: the prompt is longer than JPEG's 64 kB of EXIF; use PNG")
    with atomic_path(path) as temporary:
        image.save(temporary, kind, **options)


def _as_settings(settings: Settings | Mapping[str, Any] | None) -> Settings:
    from unprompt import __version__

    if not isinstance(settings, Settings):
        given = dict(settings or {})
        names = [field.name for field in fields(Settings) if field.name not in ("other", "loras")]
        known = {name: given.pop(name) for name in names if name in given}
        other = {str(key): str(value) for key, value in given.items() if value is not None}
        settings = Settings(**known, other=other)
    other = {"Version": f"unprompt {__version__}"} | dict(settings.other)
    values = {name.name: getattr(settings, name.name) for name in fields(Settings)}
    return Settings(**(values | {"other": other}))
