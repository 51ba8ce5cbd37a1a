"""The REST API and the web page, without a socket."""

import io
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin

from unprompt.predicting.predictor import Predictor
from unprompt.serving.app import MAX_IMAGES, make_app


@pytest.fixture
def client(predictor: Predictor) -> Iterator[TestClient]:
    with TestClient(make_app(predictor, max_bytes=200_000, waiting=8)) as client:
        yield client


def form(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", file) for file in files]


def test_each_image_gets_its_answer_in_order(
    client: TestClient, predictor: Predictor, picture: bytes, stated: bytes
) -> None:
    files = form(("p.png", picture), ("s.png", stated), ("bad.png", b"no image"))
    response = client.post("/predict", files=files)
    assert response.status_code == 200
    embedded, read, bad = response.json()
    assert embedded == predictor.predict(picture).to_dict() | {"file": "p.png"}
    assert len(embedded["alternatives"]) == 1
    assert read["route"] == "read"
    assert read["prompt"] == "<script>alert(1)</script>"
    assert bad["error"] == "not an image, or its format is not supported"
    assert bad["file"] == "bad.png"


def test_health_names_the_model(client: TestClient) -> None:
    health = client.get("/health").json()
    assert health["model"] == "builtin"
    assert health["status"] == "ok"


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text
    for name in ("page.js", "page.css", "icon.svg"):
        assert name in page.text
        assert client.get(name).status_code == 200


def test_the_api_is_described(client: TestClient) -> None:
    assert set(client.get("/openapi.json").json()["paths"]) == {"/health", "/predict"}


def test_a_request_without_images_is_refused(client: TestClient) -> None:
    assert client.post("/predict").status_code == 422


def test_a_request_with_too_many_images_is_refused(client: TestClient) -> None:
    response = client.post("/predict", files=form(*[("a.png", b"")] * (MAX_IMAGES + 1)))
    assert response.status_code == 413
    assert f"at most {MAX_IMAGES} are allowed" in response.json()["detail"]


@pytest.mark.parametrize("stated", [True, False], ids=["length stated", "length unstated"])
def test_a_request_that_is_too_long_is_refused(client: TestClient, stated: bool) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    body += bytes(300_000) + b"\r\n--x--\r\n"
    content = body if stated else iter([body[:150_000], body[150_000:]])
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/predict", content=content, headers=headers).status_code == 413


def test_a_request_with_too_many_pixels_is_refused(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("1", (9900, 9900)).save(file, "png")
    response = client.post("/predict", files=form(*[("a.png", file.getvalue())] * 4))
    assert response.status_code == 413
    assert "392,040,000 pixels; at most 300,000,000" in response.json()["detail"]


def test_a_request_that_finds_no_space_may_come_again(client: TestClient) -> None:
    response = client.post("/predict", files=form(*[("a.png", b"")] * 20))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"


def test_other_sites_pages_may_not_ask(client: TestClient, picture: bytes) -> None:
    for site, status in (("cross-site", 403), ("same-origin", 200)):
        response = client.post(
            "/predict", files=form(("a.png", picture)), headers={"Sec-Fetch-Site": site}
        )
        assert response.status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://testserver", 200),
        ("https://testserver", 200),
        ("http://testserver:81", 403),
        ("http://evil.example", 403),
        ("null", 403),
    ],
)
def test_the_origin_of_a_page_must_be_the_host(
    client: TestClient, stated: bytes, origin: str, status: int
) -> None:
    headers = {"Origin": origin}
    response = client.post("/predict", files=form(("a.png", stated)), headers=headers)
    assert response.status_code == status


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer s3cre", 401),
        ("Bearer \xe9", 401),
        ("Basic s3cret", 401),
    ],
)
def test_a_token_guards_everything_but_the_page(
    predictor: Predictor, stated: bytes, header: str | None, status: int
) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    with TestClient(make_app(predictor, token="s3cret"), headers=headers) as client:
        assert client.post("/predict", files=form(("a.png", stated))).status_code == status
        for path in ("/health", "/openapi.json"):
            response = client.get(path)
            assert response.status_code == status
            assert ("www-authenticate" in response.headers) == (status == 401)
        for path in ("/", "/page.js"):
            assert client.get(path).status_code == 200


def test_numbers_that_javascript_cannot_hold_are_strings(client: TestClient) -> None:
    settings = {"Seed": 2**53 + 1, "Steps": 20}
    chunk = PngImagePlugin.PngInfo()
    stated = ", ".join(f"{name}: {value}" for name, value in settings.items())
    chunk.add_text("parameters", f"a cat\n{stated}, CFG scale: 7")
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png", pnginfo=chunk)
    (answer,) = client.post("/predict", files=form(("a.png", file.getvalue()))).json()
    assert answer["settings"]["seed"] == "9007199254740993"
    assert answer["settings"]["steps"] == 20


def test_names_of_other_hosts_are_refused(predictor: Predictor) -> None:
    app = make_app(predictor, hosts=["localhost"])
    for host, status in (("localhost", 200), ("localhost:8000", 200), ("evil.example", 400)):
        with TestClient(app) as client:
            assert client.get("/health", headers={"Host": host}).status_code == status
