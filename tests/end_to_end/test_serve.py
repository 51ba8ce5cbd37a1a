"""The installed command ``unprompt serve``."""

import io
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from PIL import Image

COMMAND = Path(sys.executable).parent / "unprompt"


def test_answers_until_ctrl_c() -> None:
    picture = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(picture, "png")
    server = subprocess.Popen(
        [COMMAND, "serve", "--port", "0", "--top-k", "2"], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr
    address = server.stderr.readline().split()[3].rstrip(";")
    body = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    body += picture.getvalue() + b"\r\n--x--\r\n"
    request = urllib.request.Request(
        address + "/predict", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        (answer,) = json.load(response)
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
