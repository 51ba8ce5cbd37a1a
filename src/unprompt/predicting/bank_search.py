"""The prompts of a bank nearest to a text or to an image."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from unprompt.encoding import encode
from unprompt.errors import UnpromptError
from unprompt.files import format_of, output_stream
from unprompt.images import IMAGE_SUFFIXES, open_rgb
from unprompt.models.bank.bank import PROBES, Bank, Match
from unprompt.predicting.loading import BUILTIN, folder_of, load_model
from unprompt.reading.formatting import csv_row

FORMATS = ("text", "json", "csv")


def search_bank(
    bank: Bank | str | Path,
    query: str | Path,
    top_k: int = 5,
    model: str | Path = BUILTIN,
    probes: int = PROBES,
) -> list[Match]:
    """Search a bank by text or by image.

    Args:
        bank: a bank, its folder, a model's folder, or ``builtin``.
        query: an image if it is the path of a file or has the suffix of an image; else a text.
        top_k: number of prompts.
        model: the embedder, for an image.
        probes: number of cells to search in a Faiss index.

    Returns:
        The nearest prompts, best first.

    Raises:
        ModelNotFoundError: the bank, the model or the encoder cannot be found or downloaded.
        UnreadableImageError: the file is not an image, or does not exist.
        UnpromptError: the model predicts embeddings of another encoder than the bank's.
    """
    if not isinstance(bank, Bank):
        bank = Bank.load(folder_of(bank), probes)
    return bank.search(_embedded(query, bank.encoder, model), top_k)[0]


def write_matches(
    matches: Iterable[Match],
    output: str | Path | None = None,
    form: str | None = None,
    raw_csv: bool = False,
) -> None:
    """Write the prompts that a search found, best first.

    Args:
        matches: from `search_bank`.
        output: file to write, whole or not at all; standard output by default.
        form: one of `FORMATS`; by default the format of the suffix of ``output``. ``json`` is one
            object on each line.
        raw_csv: do not protect spreadsheets from formulas, see
            `unprompt.reading.formatting.csv_row`.

    Raises:
        OutputError: the file cannot be written.
        UnpromptError: there is no such format.
    """
    form = format_of(output, form)
    if form not in FORMATS:
        raise UnpromptError(f"format '{form}': must be one of {', '.join(FORMATS)}")
    with output_stream(output) as file:
        if form == "csv":
            file.write(csv_row(("prompt", "cosine")) + "\n")
        for match in matches:
            line = f"{match.cosine:.3f}  {match.prompt}"
            if form == "json":
                line = json.dumps({"prompt": match.prompt, "cosine": round(match.cosine, 4)})
            elif form == "csv":
                line = csv_row((match.prompt, round(match.cosine, 4)), raw_csv)
            file.write(line + "\n")


def _embedded(query: str | Path, encoder: str, model: str | Path) -> np.ndarray:
    """The query's embedding, (1, dim)."""
    if not _is_image(query):
        return encode([str(query)], encoder)
    embedder = load_model(model)
    if embedder.encoder != encoder:
        raise UnpromptError(
            f"model {model} predicts embeddings of {embedder.encoder}, but the bank holds those "
            f"of {encoder}; name a bank that fits"
        )
    preprocessing = embedder.preprocessing
    pixels = preprocessing(open_rgb(query, at_least=preprocessing.least_side))
    return embedder.run(pixels[None])[0]


def _is_image(query: str | Path) -> bool:
    try:
        path = Path(query)
        return path.suffix.lower() in IMAGE_SUFFIXES or path.is_file()
    except (OSError, ValueError):  # not a valid file name
        return False
