"""The installed command ``unprompt serve``, with real requests on loopback."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

COMMAND = Path(sys.executable).parent / "unprompt"
HALF = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
)


@contextmanager
def served(
    *options: str, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, and its address."""
    server = subprocess.Popen(
        [COMMAND, "serve", "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (env or {}),
    )
    assert server.stderr
    try:
        yield server, server.stderr.readline().split()[3].rstrip(";")
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served("--top-k", "2") as (_, address):
        yield address


def form(*images: bytes) -> bytes:
    body = b""
    for image in images:
        body += b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        body += image + b"\r\n"
    return body + b"--x--\r\n"


def post(address: str, body: bytes, **headers: str) -> tuple[int, Any]:
    headers["Content-Type"] = "multipart/form-data; boundary=x"
    return get(urllib.request.Request(address + "/predict", body, headers))


def get(request: urllib.request.Request | str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def connect(address: str, sent: bytes) -> socket.socket:
    host, _, port = address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(sent)
    return connection


def png(image: Image.Image, parameters: str = "") -> bytes:
    chunk = PngImagePlugin.PngInfo()
    if parameters:
        chunk.add_text("parameters", parameters)
    file = io.BytesIO()
    image.save(file, "png", pnginfo=chunk)
    return file.getvalue()


GRADIENT = png(Image.radial_gradient("L").convert("RGB"))
STATED = png(Image.new("RGB", (8, 8)), "a cat\nSteps: 20, CFG scale: 7, Seed: 9007199254740993")


def test_answers_until_ctrl_c() -> None:
    with served("--top-k", "2") as (server, address):
        status, (answer,) = post(address, form(GRADIENT))
        assert status == 200
        assert answer["file"] == "a.png"
        assert answer["route"] == "embed+bank"
        assert len(answer["alternatives"]) == 1
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert server.stderr.read() == ""


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [COMMAND, "serve", "--port", port], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use)" in done.stderr


def test_a_request_with_too_many_pixels_is_refused(address: str) -> None:
    huge = png(Image.new("1", (9900, 9900)))
    status, detail = post(address, form(*[huge] * 16))
    assert status == 413
    assert "1,568,160,000 pixels; at most 300,000,000 are allowed" in detail


def test_a_stated_prompt_does_not_wait_for_large_images(address: str) -> None:
    huge = png(Image.new("1", (9900, 9900)))
    statuses: list[int] = []
    other = Thread(target=lambda: statuses.append(post(address, form(*[huge] * 3))[0]))
    other.start()
    answered = 0
    while other.is_alive():
        status, (answer,) = post(address, form(STATED))
        assert (status, answer["route"]) == (200, "read")
        answered += 1
        time.sleep(0.02)
    assert statuses == [200]
    assert answered > 3


def test_seeds_that_javascript_cannot_hold_are_strings(address: str) -> None:
    _, (answer,) = post(address, form(STATED))
    assert answer["settings"]["seed"] == "9007199254740993"
    assert answer["settings"]["steps"] == 20


def test_pages_of_other_sites_are_refused_on_plain_http(address: str) -> None:
    for origin, expected in ((address, 200), ("http://evil.example", 403), ("null", 403)):
        assert post(address, form(STATED), Origin=origin)[0] == expected


def test_slow_and_idle_clients_are_disconnected(address: str) -> None:
    head, _, _ = HALF.partition(b"Content-Type")
    idle, slow_head, slow_body = (connect(address, sent) for sent in (b"", head, HALF))
    kept = connect(address, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):  # head and body may come apart
        answer += kept.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 200")
    deadline = time.monotonic() + 30
    got = b""
    try:
        while time.monotonic() < deadline and not got:
            slow_head.send(b"x")  # a byte now and then keeps neither of them open
            slow_body.send(b"x")
            slow_body.settimeout(0.5)
            try:
                got = slow_body.recv(10_000)
            except TimeoutError:
                continue
    except ConnectionError:
        got = got or slow_body.recv(10_000)
    assert got.startswith(b"HTTP/1.1 408")
    for connection in (idle, slow_head, kept):
        with suppress(ConnectionResetError):
            assert connection.recv(10_000) == b""


def test_sigterm_answers_whole_requests_and_drops_half_sent_ones() -> None:
    with served() as (server, address):
        half = connect(address, HALF)
        answers: list[tuple[int, Any]] = []
        whole = Thread(target=lambda: answers.append(post(address, form(*[GRADIENT] * 8))))
        whole.start()
        time.sleep(0.3)
        server.terminate()
        server.wait(15)
        whole.join(15)
        assert half.recv(10_000) == b""
        assert answers[0][0] == 200
        assert server.stderr.read() == ""


def test_a_token_is_needed_where_one_is_set() -> None:
    for options, env in ((["--token", "s3cret"], {}), ([], {"UNPROMPT_TOKEN": "s3cret"})):
        with served(*options, env=env) as (_, address):
            assert post(address, form(STATED))[0] == 401
            assert get(address + "/health")[0] == 401
            assert post(address, form(STATED), Authorization="Bearer s3cre")[0] == 401
            assert post(address, form(STATED), Authorization="Bearer s3cret")[0] == 200
            with urllib.request.urlopen(address + "/") as page:
                assert b'id="login"' in page.read()


def test_a_token_must_fit_into_a_header() -> None:
    done = subprocess.run(
        [COMMAND, "serve", "--token", "a b"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "--token: must be ASCII" in done.stderr


@pytest.mark.parametrize(
    ("options", "warned"),
    [(["--host", "0.0.0.0"], True), (["--host", "0.0.0.0", "--token", "s"], False), ([], False)],
)
def test_a_server_open_to_the_network_warns_without_a_token(
    options: list[str], warned: bool
) -> None:
    with served(*options) as (server, address):
        get(address + "/health")
        server.send_signal(signal.SIGINT)
        assert server.stderr.read().startswith("unprompt: warning: everyone") == warned


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address only")
def test_another_loopback_address_is_a_name_of_the_server() -> None:
    with served("--host", "127.0.0.2") as (_, address):
        assert address.startswith("http://127.0.0.2:")
        assert get(address + "/health")[0] == 200
        evil = urllib.request.Request(address + "/health", headers={"Host": "evil.example"})
        assert get(evil)[0] == 400
