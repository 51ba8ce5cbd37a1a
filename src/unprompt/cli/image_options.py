"""Options of every verb that answers for images, and the predictor that they describe."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from unprompt.predicting.predictor import Predictor


class Route(StrEnum):
    """Which way to the prompt."""

    auto = "auto"
    read = "read"
    embed = "embed"
    decode = "decode"
    caption = "caption"
    interrogate = "interrogate"


Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="builtin, a model's folder, or a hub repository; several answer as an ensemble.",
        show_default="builtin",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(help="How much each of several models counts, as 0.3,0.7; else equal."),
]
RouteOption = Annotated[
    Route,
    typer.Option(
        help="Read the file's own prompt; embed the picture and search the bank, or let a "
        "decoder write; let a captioner write; compose phrases by CLIP; or read first."
    ),
]
TopK = Annotated[int, typer.Option(min=1, help="Prompts to give for each image.")]
BankOption = Annotated[
    str | None, typer.Option(help="A bank's folder, or that of a model whose bank to search.")
]
Knn = Annotated[
    int,
    typer.Option(min=0, help="Average so many of the bank's nearest prompts into the embedding."),
]
Rerank = Annotated[
    bool,
    typer.Option(
        help="Encode prompts of bank and decoder again; rank them by their cosine to the "
        "predicted embedding. Needs the target encoder."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in a batch.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda, for models that run on torch.")]
NumBeams = Annotated[int, typer.Option(min=1, help="Beams of a captioner's or decoder's search.")]
TopP = Annotated[
    float | None,
    typer.Option(help="Let it sample from the likeliest tokens of this probability."),
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
) -> Predictor:
    """The predictor of these options; raises as `Predictor`, `Search` and `shares_of`."""
    from unprompt.predicting.captioner_model import Search
    from unprompt.predicting.embedding_model import BUILTIN
    from unprompt.predicting.ensemble_model import shares_of
    from unprompt.predicting.predictor import Predictor

    return Predictor(
        models or BUILTIN,
        route,
        top_k,
        bank,
        device,
        Search(num_beams, top_p),
        knn,
        rerank,
        shares_of(weights) if weights else None,
    )
