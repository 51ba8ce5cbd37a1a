import socket

import pytest

pytest.importorskip("img2dataset", reason="the extra [data] is not installed")

from tests.collecting.urls.web import BadWeb, bad_web
from unprompt.collecting.urls import public_addresses
from unprompt.collecting.urls.public_addresses import connect, guarded_opener, is_public


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "localhost"])
def test_the_guard_connects_to_no_such_host(host: str) -> None:
    with pytest.raises(OSError, match="no public address"):
        connect((host, 80), 1)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("192.168.1.1", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("2002:7f00:1::1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d70e", True),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    assert is_public(address) == public


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/x", "data:,x"])
def test_the_guard_opens_no_other_scheme(url: str) -> None:
    with pytest.raises(OSError, match="unknown url type"):
        guarded_opener().open(url, timeout=1)


@pytest.fixture
def as_public(monkeypatch: pytest.MonkeyPatch):
    """A public address that leads to the local server: what a hostile page would need."""
    real = socket.create_connection

    def route(address, *rest):
        host, port = address
        assert host == "93.184.215.14"
        return real(("127.0.0.1", port), *rest)

    with bad_web() as web:
        monkeypatch.setattr(public_addresses.socket, "create_connection", route)
        yield web


def _open(web: BadWeb, number: int) -> bytes:
    url = f"http://93.184.215.14:{web.server_port}/{number}.jpg"
    with guarded_opener().open(url, timeout=60) as answer:
        return answer.read()


def test_images_and_redirects_to_public_addresses_arrive(as_public: BadWeb) -> None:
    assert _open(as_public, 1).startswith(b"\xff\xd8")
    assert _open(as_public, 31).startswith(b"\xff\xd8")


def test_redirects_to_files_and_private_addresses_are_refused(as_public: BadWeb) -> None:
    with pytest.raises(OSError, match="file:///etc/hostname' is not allowed"):
        _open(as_public, 23)
    with pytest.raises(OSError, match=r"refused: 127\.0\.0\.1 has no public address"):
        _open(as_public, 29)
    assert not any(path.startswith("/moved") for path in as_public.asked)
