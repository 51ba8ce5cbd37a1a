"""Runs the application on a network address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from unprompt.errors import UnpromptError
from unprompt.predicting.predictor import Predictor
from unprompt.serving.app import make_app

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def serve(
    predictor: Predictor,
    host: str = "127.0.0.1",
    port: int = 8000,
    batch_size: int = 16,
    max_bytes: int = 64 * 2**20,
    started: Callable[[str], object] = lambda address: None,
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
        started: is called with the server's URL when it listens.

    Raises:
        UnpromptError: the address cannot be used, or the model cannot be loaded.
    """
    with _listening(host, port) as listener:
        _ = predictor.model
        name = f"[{host}]" if ":" in host else host
        app = make_app(predictor, batch_size, max_bytes, hosts=LOCAL if _is_local(host) else ("*",))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        started(f"http://{name}:{listener.getsockname()[1]}")
        with suppress(
            KeyboardInterrupt
        ):  # raised by uvicorn after Ctrl-C, when all requests are answered
            server.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise UnpromptError(
            f"cannot listen on {host}, port {port} ({reason}); choose others with --host and --port"
        ) from error


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
