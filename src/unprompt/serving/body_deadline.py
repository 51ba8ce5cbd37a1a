"""A time-out for request bodies that arrive slowly."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_SECONDS = 10
"""Time for a request body to arrive, beside the time that its bytes take at `BODY_RATE`."""
BODY_RATE = 64 * 2**10
"""Slowest transfer in bytes a second."""


class BodyDeadlineMiddleware:
    """Answers 408 to a request whose body does not arrive in time, and closes its connection."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, for which a late body is a client that left."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        arriving, late = True, False

        async def receive_in_time() -> Message:
            nonlocal deadline, arriving, late
            if not arriving:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                arriving, late = False, True
                return {"type": "http.disconnect"}
            deadline += len(message.get("body", b"")) / BODY_RATE
            arriving = message.get("more_body", False)
            return message

        async def send_unless_late(message: Message) -> None:
            if not late:
                await send(message)
            elif message["type"] == "http.response.start":
                refusal = JSONResponse(
                    {"detail": "the request arrives too slowly"},
                    HTTPStatus.REQUEST_TIMEOUT,
                    {"Connection": "close"},
                )
                await refusal(scope, receive, send)

        await self._app(scope, receive_in_time, send_unless_late)
