"""The exact route from start to end: open, extract the texts, ask the families."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from PIL import Image

from unprompt.errors import UnreadableImageError
from unprompt.images import ImageSource, why_no_image
from unprompt.reading.carrier import Carrier, Limits
from unprompt.reading.containers import DECODING_ERRORS, read_other, read_pillow, recognise
from unprompt.reading.containers.png import read_png
from unprompt.reading.containers.window import Window
from unprompt.reading.read_sidecar import read_sidecar
from unprompt.reading.registry import recognise as recognise_family
from unprompt.reading.result import Field, Reading, changed
from unprompt.reading.stealth import read_stealth


def read(image: ImageSource, captions: bool = False) -> Reading | None:
    """Read the prompt that an image file carries, or that a generator wrote beside it.

    Only the container is parsed; pixels are decoded where nothing else is found and their lowest
    bits open with the mark of a hidden text (``stealth_pnginfo``). Nothing in a file is executed
    or fetched. Safe in threads.

    Args:
        image: path, encoded bytes, binary file object (read from its start, left at any place)
            or PIL image. Of a PIL image the texts that Pillow kept are read. Of a path the
            ``.txt`` and ``.json`` files of its name count too where the image has no prompt.
        captions: also take such a file for a prompt that is not exact where it holds plain text
            (kohya) or a caption (img2dataset).

    Returns:
        What the file says, or None where it says nothing about how it was made. ``prompt`` is
        None where it names its maker only.

    Raises:
        UnreadableImageError: no such file, empty, or no image of a supported format.
    """
    limits = Limits()
    if isinstance(image, Image.Image):
        carrier, reading = _from_pillow(image, limits)
    else:
        opened, name = _opened(image)
        with opened as file:
            carrier, reading = _from_file(_window(file, name), name, limits)
    if isinstance(image, (str, Path)) and (reading is None or not reading.prompt):
        beside = read_sidecar(Path(image), captions)
        if beside is not None:
            carrier, reading = Carrier((*carrier.fields, *beside.raw), carrier.kind), beside
    if reading is None:
        return None
    return changed(reading, raw=carrier.fields, problems=(*reading.problems, *limits.problems))


def read_fields(image: ImageSource) -> tuple[Field, ...]:
    """Every text that an image file carries, whether or not any family knows it.

    Raises:
        UnreadableImageError: as `read`.
    """
    limits = Limits()
    if isinstance(image, Image.Image):
        return tuple(read_pillow(image, limits))
    opened, name = _opened(image)
    with opened as file:
        window = _window(file, name)
        carrier = _carrier(window, name, limits)
        late = read_png(window, limits, behind=True) if carrier.kind == "PNG" else ()
        return (*carrier.fields, *late)


def _from_file(file: Window, name: str, limits: Limits) -> tuple[Carrier, Reading | None]:
    carrier = _carrier(file, name, limits)
    reading = recognise_family(carrier)
    if reading is not None and reading.prompt is not None:
        return carrier, reading
    if carrier.kind == "PNG" and (late := tuple(read_png(file, limits, behind=True))):
        carrier = Carrier((*carrier.fields, *late), carrier.kind)
        reading = recognise_family(carrier)
        if reading is not None and reading.prompt is not None:
            return carrier, reading
    if carrier.kind in ("PNG", "WebP"):
        hidden = tuple(read_stealth(file.file, carrier.kind, limits))
        if hidden:
            carrier = Carrier((*carrier.fields, *hidden), carrier.kind)
            reading = recognise_family(Carrier(hidden, carrier.kind)) or reading
    return carrier, reading


def _window(file: IO[bytes], name: str) -> Window:
    try:
        window = Window(file)
    except OSError as error:
        raise UnreadableImageError(f"{name}: cannot be read ({error})") from error
    if not window.head:
        raise UnreadableImageError(f"{name}: the file is empty (0 bytes)")
    return window


def _carrier(file: Window, name: str, limits: Limits) -> Carrier:
    kind, reader = recognise(file.head) or ("other", read_other)
    try:
        return Carrier(reader(file, limits), kind)
    except Image.UnidentifiedImageError:
        raise UnreadableImageError(f"{name}: not an image, or of no supported format") from None
    except DECODING_ERRORS as error:
        raise UnreadableImageError(f"{name}: cannot be read ({error})") from error


def _from_pillow(image: Image.Image, limits: Limits) -> tuple[Carrier, Reading | None]:
    carrier = Carrier(read_pillow(image, limits), image.format or "")
    reading = recognise_family(carrier)
    if reading is None or reading.prompt is None:
        try:
            image.load()  # PNG texts may stand after the pixels
        except DECODING_ERRORS as error:
            limits.note(f"the pixels cannot be decoded ({error})")
            return carrier, reading
        hidden = tuple(read_stealth(image, image.format or "", limits))
        carrier = Carrier((*read_pillow(image, limits), *hidden), image.format or "")
        reading = recognise_family(carrier)
    return carrier, reading


def _opened(
    image: str | Path | bytes | IO[bytes],
) -> tuple[AbstractContextManager[IO[bytes]], str]:
    """A context that gives the file and closes what was opened here, and a name for errors."""
    if isinstance(image, (str, Path)):
        return _open_file(image), str(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return io.BytesIO(image), "image"
    name = str(getattr(image, "name", "image"))
    if image.seekable():
        image.seek(0)
        return nullcontext(image), name
    return io.BytesIO(image.read()), name


def _open_file(path: str | Path) -> IO[bytes]:
    try:
        return io.FileIO(path)
    except FileNotFoundError:
        raise UnreadableImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UnreadableImageError(f"{path}: {why_no_image(Path(path))}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImageError(f"{path}: cannot be opened ({reason})") from error
