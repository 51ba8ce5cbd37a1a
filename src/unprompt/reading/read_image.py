"""`read`: open an image file, extract its texts, and ask each generator family for the prompt."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, cast

from PIL import Image

from unprompt.errors import UnreadableImageError
from unprompt.images import ImageSource, why_no_image
from unprompt.reading.containers.container_registry import (
    DECODING_ERRORS,
    find_reader,
    read_other,
    read_pillow,
)
from unprompt.reading.containers.file_window import WholeReads, Window, read_exactly
from unprompt.reading.containers.png import read_png
from unprompt.reading.family_registry import ask_families
from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.limits import Limits
from unprompt.reading.read_sidecar import read_sidecar
from unprompt.reading.result import Field, Reading, changed
from unprompt.reading.stealth_pixels import read_stealth

MAX_STREAM = 1 << 30
"""Most bytes of a pipe or another stream without positions, which is read into memory."""


def read(image: ImageSource, captions: bool = False) -> Reading | None:
    """Read the prompt that an image file contains, or that a generator wrote in a file beside it.

    Only the container is parsed. Pixels are decoded only if nothing else is found and their lowest
    bits start with the mark of a hidden text (``stealth_pnginfo``). Nothing in a file is executed
    or fetched. Safe in threads.

    Args:
        image: path, encoded bytes, binary file object (read from its start; its position
            afterwards is undefined) or PIL image. For a PIL image the texts that Pillow kept are
            read. For a path without a prompt inside, the files beside it with the same name are
            read too.
        captions: also accept files beside the image with plain text (kohya) or a caption
            (img2dataset), as prompts that are not exact.

    Returns:
        The reading, or None if the file states nothing about how it was made. Its ``prompt`` is
        None if the file names its generator but no prompt, or if only ``problems`` were found:
        a damaged part, or one larger than the limits.

    Raises:
        UnreadableImageError: the file is missing, empty, or not in a supported format, or reading
            it failed before a prompt was found.
    """
    limits = Limits()
    if isinstance(image, Image.Image):
        texts, reading = _from_pillow(image, limits)
    else:
        opened, name = _opened(image)
        with opened as file:
            texts, reading = _from_file(_window(file, name), name, limits)
        if limits.cut_off is not None and (reading is None or reading.prompt is None):
            raise UnreadableImageError(f"{name}: cannot be read ({limits.cut_off})")
    if isinstance(image, (str, Path)) and (reading is None or not reading.prompt):
        beside = read_sidecar(Path(image), limits, captions)
        if beside is not None:
            texts, reading = ImageTexts((*texts.fields, *beside.raw), texts.container), beside
    if reading is None:
        if not limits.problems:
            return None
        reading = Reading(None)
    return changed(reading, raw=texts.fields, problems=(*reading.problems, *limits.problems))


def read_fields(image: ImageSource) -> tuple[Field, ...]:
    """Every text in an image file, whether or not a generator family knows it.

    Raises:
        UnreadableImageError: as in `read`.
    """
    limits = Limits()
    if isinstance(image, Image.Image):
        return tuple(read_pillow(image, limits))
    opened, name = _opened(image)
    with opened as file:
        window = _window(file, name)
        texts = _texts(window, name, limits)
        late = _late_texts(window, limits) if texts.container == "PNG" else []
        return (*texts.fields, *late)


def _from_file(file: Window, name: str, limits: Limits) -> tuple[ImageTexts, Reading | None]:
    texts = _texts(file, name, limits)
    reading = ask_families(texts)
    if limits.cut_off is not None or (reading is not None and reading.prompt is not None):
        return texts, reading
    if texts.container == "PNG" and (late := _late_texts(file, limits)):
        texts = ImageTexts((*texts.fields, *late), texts.container)
        reading = ask_families(texts)
        if reading is not None and reading.prompt is not None:
            return texts, reading
    if texts.container in ("PNG", "WebP"):
        hidden = tuple(read_stealth(file.file, texts.container, limits))
        if hidden:
            texts = ImageTexts((*texts.fields, *hidden), texts.container)
            reading = ask_families(ImageTexts(hidden, texts.container)) or reading
    return texts, reading


def _window(file: IO[bytes], name: str) -> Window:
    try:
        window = Window(file)
    except (OSError, TypeError, ValueError) as error:
        raise UnreadableImageError(f"{name}: cannot be read ({error})") from error
    if not window.head:
        raise UnreadableImageError(f"{name}: the file is empty (0 bytes)")
    return window


def _texts(file: Window, name: str, limits: Limits) -> ImageTexts:
    container, reader = find_reader(file.head) or ("other", read_other)
    try:
        return ImageTexts(_until_error(reader(file, limits), limits), container)
    except Image.UnidentifiedImageError:
        raise UnreadableImageError(
            f"{name}: not an image, or its format is not supported"
        ) from None
    except DECODING_ERRORS as error:
        raise UnreadableImageError(f"{name}: cannot be read ({error})") from error


def _late_texts(file: Window, limits: Limits) -> list[Field]:
    """The texts of a PNG that stand after its pixels."""
    return _until_error(read_png(file, limits, behind=True), limits)


def _until_error(fields: Iterable[Field], limits: Limits) -> list[Field]:
    """The fields that can be read before the file system fails, if it does."""
    found: list[Field] = []
    try:
        found.extend(fields)
    except Image.UnidentifiedImageError:
        raise
    except OSError as error:
        limits.stop(error)
    return found


def _from_pillow(image: Image.Image, limits: Limits) -> tuple[ImageTexts, Reading | None]:
    texts = ImageTexts(read_pillow(image, limits), image.format or "")
    reading = ask_families(texts)
    if reading is None or reading.prompt is None:
        try:
            image.load()  # a PNG may have texts after its pixels
        except DECODING_ERRORS as error:
            limits.note(f"the pixels cannot be decoded ({error})")
            return texts, reading
        hidden = tuple(read_stealth(image, image.format or "", limits))
        texts = ImageTexts((*read_pillow(image, limits), *hidden), image.format or "")
        reading = ask_families(texts)
    return texts, reading


def _opened(
    image: str | Path | bytes | IO[bytes],
) -> tuple[AbstractContextManager[IO[bytes]], str]:
    """A context manager that closes only files opened here, and the name for errors."""
    if isinstance(image, (str, Path)):
        return _open_file(image), str(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return io.BytesIO(image), "image"
    name = str(getattr(image, "name", "image"))
    try:
        if not image.seekable():
            return _buffered(image, name), name
        image.seek(0)
    except (OSError, ValueError) as error:
        raise UnreadableImageError(f"{name}: cannot be read ({error})") from error
    whole = isinstance(image, (io.BufferedIOBase, io.FileIO))
    return nullcontext(image if whole else cast("IO[bytes]", WholeReads(image))), name


def _buffered(file: IO[bytes], name: str) -> IO[bytes]:
    """A stream without positions, such as a pipe, in memory."""
    data = read_exactly(file, MAX_STREAM + 1)
    if len(data) > MAX_STREAM:
        raise UnreadableImageError(f"{name}: more than {MAX_STREAM >> 30} GiB; read it from a file")
    return io.BytesIO(data)


def _open_file(path: str | Path) -> IO[bytes]:
    try:
        file = io.FileIO(path)
        if file.seekable():
            return file
        with file:
            return _buffered(file, str(path))
    except FileNotFoundError:
        raise UnreadableImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UnreadableImageError(f"{path}: {why_no_image(Path(path))}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImageError(f"{path}: cannot be opened ({reason})") from error
