"""A web server of images that behaves as badly as the web does."""

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import (
    BaseHTTPRequestHandler,
    SimpleHTTPRequestHandler,
    ThreadingHTTPServer,
)
from pathlib import Path
from typing import TypeVar

from PIL import Image

Server = TypeVar("Server", bound=ThreadingHTTPServer)

KINDS = {
    3: "missing",  # 404
    7: "busy",  # 429 at first, then there
    11: "hang",  # no answer at first, then there
    13: "slow",  # an answer after a while
    17: "html",  # no image
    19: "truncated",  # an image cut off
    23: "file",  # redirect to file://
    29: "private",  # redirect to a private address
    31: "moved",  # redirect to an image
    37: "error",  # 500, always
    41: "optout",  # an image that no machine may learn from
    43: "optout-by-name",  # the same, said to img2dataset
    47: "mistyped",  # an image that is said to be a text
}
NEVER = {"missing", "html", "truncated", "file", "error", "optout", "optout-by-name"}
AT_FIRST = {"busy", "hang"}


def kind(number: int) -> str:
    """What becomes of image ``number`` of every hundred."""
    return KINDS.get(number % 100, "image")


def picture(number: int) -> bytes:
    """JPEG bytes of an image of one colour."""
    buffer = io.BytesIO()
    colour = (number % 256, number // 256 * 16 % 256, 128)
    Image.new("RGB", (24, 24), colour).save(buffer, "JPEG")
    return buffer.getvalue()


class BadWeb(ThreadingHTTPServer):
    """Counts how often each path was asked for."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, patience: float):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: Counter[str] = Counter()
        self.patience = patience
        self.lock = threading.Lock()

    def url(self, number: int) -> str:
        """Where image ``number`` lies."""
        return f"http://127.0.0.1:{self.server_port}/{number}.jpg"


class _Answers(BaseHTTPRequestHandler):
    server: BadWeb

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked[self.path] += 1
            count = self.server.asked[self.path]
        number = int(self.path.strip("/").split(".")[0].removeprefix("moved-"))
        what = "image" if "moved-" in self.path else kind(number)
        if what == "missing":
            self.send_error(404)
        elif what == "error":
            self.send_error(500)
        elif what == "busy" and count == 1:
            self.send_error(429)
        elif what == "file":
            self._redirect("file:///etc/hostname")
        elif what == "private":
            self._redirect(f"http://127.0.0.1:{self.server.server_port}/moved-{number}.jpg")
        elif what == "moved":
            self._redirect(f"/moved-{number}.jpg")
        else:
            if what == "hang" and count == 1:
                time.sleep(self.server.patience * 2)
            if what == "slow":
                time.sleep(self.server.patience / 4)
            body = b"<html>no image</html>" if what == "html" else picture(number)
            self._send(body[: len(body) // 2] if what == "truncated" else body, what)

    def _send(self, body: bytes, what: str) -> None:
        types = {"html": "text/html", "mistyped": "text/plain"}
        directives = {"optout": "noai", "optout-by-name": "img2dataset: noindex"}
        try:
            self.send_response(200)
            self.send_header("Content-Type", types.get(what, "image/jpeg"))
            if what in directives:
                self.send_header("X-Robots-Tag", directives[what])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever asked has gone

    def _redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def bad_web(patience: float = 2.0) -> Iterator[BadWeb]:
    """A running server; ``patience`` is the time-out of its clients in seconds."""
    with _running(BadWeb(patience)) as server:
        yield server


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a server of the files of a folder."""
    handler = partial(_Quiet, directory=str(folder))
    with _running(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    # It looks this often whether it is to end, in seconds.
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
