"""The verb that serves predictions to other programs and to a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from unprompt.cli import options


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 allows access from the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    models: options.Models = None,
    weights: options.Weights = None,
    route: options.RouteOption = options.Route.auto,
    top_k: options.TopK = 3,
    bank: options.Bank = None,
    knn: options.Knn = 0,
    rerank: options.Rerank = False,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    max_mb: Annotated[int, typer.Option("--max-mb", min=1, help="Largest request, in MB.")] = 64,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="UNPROMPT_TOKEN",
            help="Answer only requests that send this token; other users of this machine can read "
            "it from the command line, but not from the variable.",
            show_default="no token needed",
        ),
    ] = None,
    device: options.Device = "auto",
    num_beams: options.NumBeams = options.NUM_BEAMS,
    top_p: options.TopP = None,
) -> None:
    """Serve predictions until Ctrl-C: a page to drop images on, and a REST API.

    In a network, set a token, and let a proxy encrypt the connection.

    [bold]Examples[/bold]

      unprompt serve

      unprompt serve --port 9000 --model runs/mine/model --top-k 5

      UNPROMPT_TOKEN=secret unprompt serve --host 0.0.0.0

      curl -F images=@one.png -F images=@two.jpg http://127.0.0.1:8000/predict
    """
    from unprompt.errors import need

    need("serve", "fastapi", "uvicorn", "python_multipart")

    from unprompt.serving.server import serve as run

    predictor = options.make_predictor(
        models, weights, route, top_k, bank, knn, rerank, device, num_beams, top_p, batch_size
    )
    run(predictor, host, port, batch_size, max_mb * 2**20, token, options.note)
