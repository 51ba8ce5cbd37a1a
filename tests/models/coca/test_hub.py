"""CoCa goes to a model hub, and comes back from what is there."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import huggingface_hub
import torch
from transformers import AutoModelForImageTextToText
from transformers.utils.hub import hf_api


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as takes a commit: its files are kept by name."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer: dict = {}
        if self.path.endswith("/repos/create"):
            answer = {"url": "http://127.0.0.1/someone/coca"}
        elif "/preupload/" in self.path:
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            files = json.loads(body)["files"]
            answer = {"files": [{"path": file["path"]} | regular for file in files]}
        elif "/commit/" in self.path:
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    file = entry["value"]
                    self.files[file["path"]] = base64.b64decode(file["content"])
            answer = {"commitUrl": "http://127.0.0.1/someone/coca/commit/0", "commitOid": "0" * 40}
        self._say(200, answer)

    def do_GET(self) -> None:
        self._say(404, {})

    def do_HEAD(self) -> None:
        self._say(404, {})

    def _say(self, status: int, answer: dict) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_pushed_to_a_hub(model, pixels, tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for api in (huggingface_hub.hf_api.api, hf_api()):
        monkeypatch.setattr(api, "endpoint", address)
    constants = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in constants.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    huggingface_hub.close_session()
    try:
        model.push_to_hub("someone/coca", token="none")
    finally:
        server.shutdown()
        server.server_close()
        huggingface_hub.close_session()
    for name, content in Hub.files.items():
        (tmp_path / name).write_bytes(content)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(pixels), model.generate(pixels))
