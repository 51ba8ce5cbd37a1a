"""Runs the application on a network address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from unprompt.errors import UnpromptError
from unprompt.predicting.predictor import Predictor
from unprompt.serving.app import make_app

LOCAL = ("localhost", "127.0.0.1", "[::1]")

IDLE_SECONDS = 10
"""A connection that sends no whole request head for so long is closed."""
SHUTDOWN_SECONDS = 20
"""Requests that are not answered so long after Ctrl-C or SIGTERM are dropped."""


def serve(
    predictor: Predictor,
    host: str = "127.0.0.1",
    port: int = 8000,
    batch_size: int = 16,
    max_bytes: int = 64 * 2**20,
    token: str | None = None,
    note: Callable[[str], object] = lambda line: None,
) -> None:
    """Serve the REST API and the web page until Ctrl-C or SIGTERM.

    Requests that have arrived by then are answered first.

    Args:
        predictor: its model is loaded before the server starts.
        host: address to listen on. An address other than this machine's loopback makes the server
            reachable from the network.
        port: port to listen on; 0 for any free one.
        batch_size: as in `make_app`.
        max_bytes: as in `make_app`.
        token: as in `make_app`.
        note: is called with the line that states the URL when the server listens, and with a
            warning where others can use the server without a token.

    Raises:
        UnpromptError: the address or the token cannot be used, or the model cannot be loaded.
    """
    if token is not None and not (
        token.isascii() and token.isprintable() and token.split() == [token]
    ):
        raise UnpromptError("--token: must be ASCII letters, digits and signs without spaces")
    with _listening(host, port) as listener:
        _ = predictor.model
        address, port = listener.getsockname()[:2]
        local = ipaddress.ip_address(address).is_loopback
        name = f"[{host}]" if ":" in host else host
        hosts = (*LOCAL, name) if local else ("*",)
        app = make_app(predictor, batch_size, max_bytes, hosts=hosts, token=token)
        config = uvicorn.Config(
            app,
            http=_Connection,
            log_level="warning",
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        note(f"serving at http://{name}:{port}; Ctrl-C ends")
        if token is None and not local:
            note("warning: everyone in the network can use this server; --token prevents it")
        # uvicorn raises it after Ctrl-C, when all requests are answered.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


class _Connection(H11Protocol):
    """Limits the time for a request's head, and drops half-sent requests at shutdown.

    uvicorn's own time-out starts after the first answer and ends at the next byte.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        self.handle_events()  # a whole head ends the time-out

    def shutdown(self) -> None:
        if self.cycle is not None and self.cycle.more_body:
            self.transport.close()
        else:
            super().shutdown()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise UnpromptError(
            f"cannot listen on {host}, port {port} ({reason}); choose others with --host and --port"
        ) from error
