"""The web application: routes, limits and the static page."""

from __future__ import annotations

import asyncio
import math
import secrets
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
from unprompt.serving.batching import Batcher, BusyError, TooManyPixelsError
from unprompt.serving.body_deadline import BodyDeadlineMiddleware

MAX_IMAGES = 64
"""Largest number of images in a request."""

_SAFE_INTEGER = 2**53 - 1
_PAGE = Path(__file__).parent / "page"
_PUBLIC = {"/", *(f"/{file.name}" for file in _PAGE.iterdir())}
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
    token: str | None = None,
) -> FastAPI:
    """Make an ASGI application that answers with a predictor.

    ``POST /predict`` takes a form with files named ``images``. It returns a list with an object for
    each image, in order, as `Answer.to_dict` makes it; the object of an image that cannot be read
    has an ``error``. Numbers that JavaScript cannot hold, such as large seeds, are strings.
    ``GET /health`` states the model, ``GET /openapi.json`` describes both requests, and ``GET /``
    is a page for images. Requests from pages of other sites are refused, so that a page cannot use
    the server of its visitor.

    Args:
        predictor: answers all requests, with its own settings.
        batch_size: largest number of images in a batch.
        max_bytes: longest request; a longer one gets 413.
        waiting: largest number of waiting images; a request beyond it gets 503. So does a request
            while too many pixels wait to be decoded, see `Batcher`.
        hosts: host names of this server; a request with another one gets 400. This refuses a name
            that an attacker's DNS points at this address (DNS rebinding).
        token: a request for anything but the page needs ``Authorization: Bearer TOKEN``; without
            it the request gets 401. None lets everyone in.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = Batcher(predictor, batch_size, waiting)
        yield
        await asyncio.to_thread(app.state.batcher.close)

    # The documentation pages of FastAPI load scripts from a third party.
    app = FastAPI(
        title="unprompt",
        version=unprompt.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    @app.get("/health")
    def health() -> dict[str, str]:
        """The model and its route."""
        return {
            "status": "ok",
            "version": unprompt.__version__,
            "model": predictor.model.name,
            "route": predictor.options.route,
        }

    @app.post("/predict")
    async def predict(
        request: Request, images: Annotated[list[UploadFile], File(description="image files")]
    ) -> list[dict[str, Any]]:
        """The prompt of each image, in order, as `unprompt predict --format json` prints it."""
        if len(images) > MAX_IMAGES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{len(images)} images in a request; at most {MAX_IMAGES} are allowed",
            )
        files = [(image.filename or "image", await image.read()) for image in images]
        batcher: Batcher = request.app.state.batcher
        try:
            answers = await batcher.predict(files)
        except TooManyPixelsError as error:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
        except BusyError as error:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, str(error), {"Retry-After": "1"}
            ) from error
        return [_for_javascript(answer.to_dict()) for answer in answers]

    @app.middleware("http")
    async def guard(
        request: Request, forward: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if request.method == "POST" and _is_from_another_site(request):
            return JSONResponse(
                {"detail": "requests from pages of other sites are refused"}, HTTPStatus.FORBIDDEN
            )
        if token is not None and request.url.path not in _PUBLIC and not _has(request, token):
            return JSONResponse(
                {"detail": "this server needs its token: Authorization: Bearer TOKEN"},
                HTTPStatus.UNAUTHORIZED,
                {"WWW-Authenticate": "Bearer"},
            )
        response = await forward(request)
        response.headers.update(_HEADERS)
        return response

    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=max_bytes)
    app.add_middleware(BodyDeadlineMiddleware)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False)
    app.mount("/", StaticFiles(directory=_PAGE, html=True))
    return app


def _is_from_another_site(request: Request) -> bool:
    """Whether a browser sent it for another site's page; on plain http only Origin says so."""
    origin = request.headers.get("Origin")
    return request.headers.get("Sec-Fetch-Site") == "cross-site" or (
        origin is not None and origin.partition("://")[2] != request.headers.get("Host")
    )


def _has(request: Request, token: str) -> bool:
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(sent.encode(), token.encode())


def _for_javascript(value: Any) -> Any:
    """A JSON value whose numbers beyond 2^53, and those that are not finite, are strings."""
    if isinstance(value, dict):
        return {name: _for_javascript(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_for_javascript(item) for item in value]
    if (isinstance(value, int) and abs(value) > _SAFE_INTEGER) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        return str(value)
    return value
