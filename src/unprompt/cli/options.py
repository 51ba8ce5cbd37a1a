"""Options that several verbs share, so that a name means the same everywhere.

Choices are enums, so that the help lists them. ``tests/cli/test_options.py`` compares them with the
values that the called functions accept.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unprompt.models.decoder import NUM_BEAMS as NUM_BEAMS

if TYPE_CHECKING:
    from unprompt.predicting.predictor import Predictor

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
BATCH_SIZE = 16


class Route(StrEnum):
    """How a prompt is recovered."""

    auto = "auto"
    read = "read"
    embed = "embed"
    decode = "decode"
    caption = "caption"
    interrogate = "interrogate"


class Split(StrEnum):
    """Part of a pairs table."""

    train = "train"
    val = "val"
    test = "test"
    all = "all"


class Precision(StrEnum):
    """Number format in which the encoder computes."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    int8 = "int8"


class Index(StrEnum):
    """How a bank is stored and searched."""

    flat = "flat"
    sq8 = "sq8"
    pq = "pq"


def _none_for_auto(value: str | None) -> str | None:
    return None if value == "auto" else value


Output = Annotated[Path, typer.Option("-o", "--output", help="File or folder to write.")]
OptionalOutput = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="File to write.", show_default="standard output"),
]


def format_option() -> Any:
    """The option ``--format`` of a verb that writes to standard output or to ``-o``."""
    return typer.Option(
        "--format", help="Format to write.", show_default="by the suffix of -o, else text"
    )


RawCsv = Annotated[
    bool,
    typer.Option(
        "--raw-csv",
        help="Write texts in CSV unchanged. By default a text that begins with =, +, - or @, which "
        "a spreadsheet would compute, gets an apostrophe before it.",
    ),
]


def _none_for_all(value: Split | None) -> Split | None:
    return None if value is Split.all else value


def note(line: str) -> None:
    """Print a line on standard error."""
    typer.echo(f"unprompt: {line}", err=True)


SplitOption = Annotated[
    Split | None,
    typer.Option(help="Split to use; all means every row.", callback=_none_for_all),
]
Threshold = Annotated[
    float, typer.Option(help="Two prompts are near-duplicates if their cosine is at least this.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Report what would be done, and write nothing.")
]
Table = Annotated[
    Path,
    typer.Argument(
        help="A pairs table, or a CSV, TSV, JSON lines or Parquet file with a column of image "
        "files and one of prompts.",
        metavar="TABLE",
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        help="The table's column of image files.",
        show_default="file, filepath, file_name, image_path, image, path, ...",
        metavar="NAME",
    ),
]
PromptColumn = Annotated[
    str | None,
    typer.Option(
        help="The table's column of prompts.",
        show_default="prompt, caption, text or title",
        metavar="NAME",
    ),
]
Separator = Annotated[
    str | None,
    typer.Option(
        help="Separator of a CSV file.", show_default="comma, tab or semicolon", metavar="CHARACTER"
    ),
]
Report = Annotated[
    Path | None, typer.Option(help="Also write this HTML page.", metavar="FILE.html")
]
Prompts = Annotated[
    Path,
    typer.Argument(
        help="A text file with one prompt a line, or a table with a column of prompts.",
        metavar="PROMPTS",
    ),
]
Recursive = Annotated[bool, typer.Option("-r", "--recursive", help="Search sub-folders too.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device of torch: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.",
        callback=_none_for_auto,
        metavar="DEVICE",
    ),
]
Encoder = Annotated[
    str,
    typer.Option(
        help="The target encoder: hub id or folder of a sentence-transformers model.",
        metavar="MODEL",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in a batch.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="fp32 is exact, int8 the fastest. auto is the fastest with a cosine to fp32 of at "
        "least 0.9999."
    ),
]
IndexOption = Annotated[
    Index,
    typer.Option(
        help="flat compares all prompts and is exact; sq8 and pq are Faiss indexes for a million "
        "prompts or more."
    ),
]

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="builtin, a model's folder or a hub id. If repeated, the answers are averaged.",
        show_default="builtin",
        metavar="MODEL",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Weight of each model, such as 0.3,0.7.", show_default="equal", metavar="NUMBERS"
    ),
]
RouteOption = Annotated[
    Route,
    typer.Option(
        help="read: take the prompt that the file carries. embed: predict the prompt embedding and "
        "search the bank. decode: let a decoder write the prompt. caption: let a captioner write "
        "it. interrogate: compose phrases that CLIP ranks. auto: read, else ask the model."
    ),
]
TopK = Annotated[int, typer.Option(min=1, help="Number of prompts to return, best first.")]
Bank = Annotated[
    str | None,
    typer.Option(help="Folder of a bank, or of a model whose bank to search.", metavar="DIR"),
]
Knn = Annotated[
    int,
    typer.Option(min=0, help="Number of nearest bank prompts to average into the embedding."),
]
Rerank = Annotated[
    bool,
    typer.Option(
        "--rerank",
        help="Encode the prompts of bank and decoder, and rank them by their cosine to the "
        "predicted embedding. This needs the target encoder.",
    ),
]
NumBeams = Annotated[
    int, typer.Option(min=1, help="Beams of a captioner's or decoder's search; 1 is greedy.")
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Sample from the likeliest tokens that have this total probability, instead of a "
        "beam search."
    ),
]


def make_predictor(
    models: list[str] | None,
    weights: str | None,
    route: Route,
    top_k: int,
    bank: str | None,
    knn: int,
    rerank: bool,
    device: str | None,
    num_beams: int,
    top_p: float | None,
    batch_size: int,
) -> Predictor:
    """The predictor of these options; see `Predictor` and `shares_of` for its errors."""
    from unprompt.predicting.ensemble_model import shares_of
    from unprompt.predicting.loading import BUILTIN
    from unprompt.predicting.predictor import Predictor

    return Predictor(
        models or BUILTIN,
        route=route.value,
        top_k=top_k,
        bank=bank,
        weights=shares_of(weights) if weights else None,
        knn=knn,
        rerank=rerank,
        num_beams=num_beams,
        top_p=top_p,
        device=device,
        batch_size=batch_size,
    )
