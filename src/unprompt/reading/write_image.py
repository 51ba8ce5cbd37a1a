"""Write an image with its prompt inside, so that `read` and every A1111 reader can find it."""

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
    """Save an image as PNG, JPEG or WebP, with its prompt in A1111 form.

    PNG gets a ``parameters`` text chunk, JPEG and WebP an EXIF UserComment in UTF-16.

    Args:
        image: the image to save.
        path: the file to write; its suffix decides the format. It is replaced as a whole or not at
            all.
        prompt: as the generator received it.
        negative_prompt: what the image should not show.
        settings: a `Settings`, or a mapping with the names of its fields (``seed``, ``steps``,
            ``sampler``, ``guidance``, ``model``, ``width``...); other keys are written
            unchanged. ``None`` values are left out.
        options: passed to Pillow's ``save``, as ``quality=95``.

    Raises:
        OutputError: the suffix is not one of PNG, JPEG and WebP, a line of the prompt would be
            read as another part of the A1111 form, or the file cannot be written.
    """
    path = Path(path)
    format_name = _FORMATS.get(path.suffix.lower())
    if format_name is None:
        raise OutputError(
            f"{path}: prompts can be written to .png, .jpg and .webp files only; change the suffix"
        )
    try:
        text = format_infotext(prompt, negative_prompt, _as_settings(settings))
    except ValueError as error:
        raise OutputError(f"{path}: {error}") from None
    if format_name == "PNG":
        info = PngInfo()
        # Some readers decode tEXt as Latin-1, as the standard says, others as UTF-8.
        (info.add_text if text.isascii() else info.add_itxt)("parameters", text)
        options["pnginfo"] = info
    else:
        exif = image.getexif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode(
            "utf-16-be"
        )
        options["exif"] = exif
        if format_name == "JPEG" and len(text) * 2 > _MAX_JPEG_EXIF:
            raise OutputError(
                f"{path}: the prompt is longer than the 64 kB that JPEG allows; write a PNG"
            )
    with atomic_path(path) as temporary:
        image.save(temporary, format_name, **options)


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
