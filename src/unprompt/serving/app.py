"""The REST API and the web page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import unprompt
from unprompt.predicting.predictor import Predictor
from unprompt.serving.batching import Batcher, BusyError

MAX_IMAGES = 64
"""Images in a request, at most."""

_PAGE = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' blob:; "
    "script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(
    predictor: Predictor,
    batch_size: int = 16,
    max_bytes: int = 64 * 2**20,
    waiting: int = 256,
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """An ASGI application that answers for a predictor.

    ``POST /predict`` takes a form whose ``images`` are files, and gives for each, in order, what
    `Answer.to_dict` gives; an image that cannot be read has its ``error`` there. ``GET /health``
    says which model answers, ``GET /openapi.json`` describes both, and ``GET /`` is a page to drop
    images on. Other sites' pages are refused, so that no page can make a visitor's own server work.

    Args:
        predictor: its settings hold for every request.
        batch_size: images that the model gets at a time, at most.
        max_bytes: length of a request, at most; a longer one is refused with 413.
        waiting: images that may wait, at most; a request beyond is refused with 503.
        hosts: names that this server may be called by; others are refused with 400, so that a
            name that was pointed at this address (DNS rebinding) opens nothing.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = Batcher(predictor, batch_size, waiting)
        yield
        await asyncio.to_thread(app.state.batcher.close)

    # FastAPI's own pages of documentation load scripts from a third party.
    app = FastAPI(
        title="unprompt",
        version=unprompt.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    @app.get("/health")
    def health() -> dict[str, str]:
        """Which model answers, and by which route."""
        return {
            "status": "ok",
            "version": unprompt.__version__,
            "model": predictor.model.name,
            "route": predictor.route,
        }

    @app.post("/predict")
    async def predict(
        request: Request, images: Annotated[list[UploadFile], File(description="image files")]
    ) -> list[dict[str, Any]]:
        """The prompt of each image, in order, as `unprompt predict --format json` gives it."""
        if len(images) > MAX_IMAGES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{len(images)} images; a request may have {MAX_IMAGES}",
            )
        files = [(image.filename or "image", await image.read()) for image in images]
        batcher: Batcher = request.app.state.batcher
        try:
            futures = batcher.submit(files)
        except BusyError as error:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, str(error), {"Retry-After": "1"}
            ) from error
        answers = await asyncio.gather(*map(asyncio.wrap_future, futures))
        return [answer.to_dict() for answer in answers]

    @app.middleware("http")
    async def guard(
        request: Request, forward: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if request.method == "POST" and request.headers.get("Sec-Fetch-Site") == "cross-site":
            return JSONResponse({"detail": "another site's page may not ask"}, HTTPStatus.FORBIDDEN)
        response = await forward(request)
        response.headers.update(_HEADERS)
        return response

    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=max_bytes)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False)
    app.mount("/", StaticFiles(directory=_PAGE, html=True))
    return app
