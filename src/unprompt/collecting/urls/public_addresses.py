"""img2dataset's downloader, kept to public addresses, in processes that end with their parent."""

from __future__ import annotations

import http.client
import ipaddress
import multiprocessing
import os
import socket
import threading
import urllib.error
import urllib.request
from functools import cache
from typing import Any

from img2dataset.downloader import Downloader

REFUSED = "refused"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class WatchedDownloader(Downloader):
    """Downloads a shard in a worker process that ends when the process which started it does.

    Otherwise it would go on, and write the shard that a call made soon after writes too.
    """

    def __call__(self, row: Any) -> Any:
        """Download one shard; see img2dataset."""
        _end_with_parent()
        return super().__call__(row)


@cache
def _end_with_parent() -> None:
    """Wait for the end of the parent in a thread; the first call of a process does it."""
    if (parent := multiprocessing.parent_process()) is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


class GuardedDownloader(WatchedDownloader):
    """Downloads a shard in a worker process that connects to public addresses only.

    The address is checked when the connection is made, redirects included, and the one that was
    checked is the one connected to, so a name that changes its address in between gains nothing.
    """

    def __call__(self, row: Any) -> Any:
        """Download one shard; see img2dataset."""
        urllib.request.install_opener(guarded_opener())
        return super().__call__(row)


def guarded_opener() -> urllib.request.OpenerDirector:
    """Opens http and https URLs of public addresses; redirects to any other are refused."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _HTTP(),
        _HTTPS(),
        _Redirect(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def connect(
    address: tuple[str, int], timeout: Any = None, source: Any = None, **_: Any
) -> socket.socket:
    """Connect to a host at a public address.

    Raises:
        OSError: the host has none, or cannot be reached.
    """
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    public = [info for info in found if is_public(str(info[4][0]))]
    if not public:
        raise OSError(f"{REFUSED}: {host} has no public address")
    failure: OSError | None = None
    for *_kind, where in public:
        try:
            return socket.create_connection((str(where[0]), port), timeout, source)
        except OSError as error:
            failure = error
    raise failure or OSError(f"{host} cannot be reached")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet.

    IPv6 addresses that stand for IPv4 ones (mapped, 6to4, NAT64) are as public as these.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(ip.packed[-4:])
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class _HTTPConnection(http.client.HTTPConnection):
    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._create_connection = connect


class _HTTPSConnection(http.client.HTTPSConnection):
    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._create_connection = connect


class _HTTP(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPConnection, request)


class _HTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPSConnection, request)


class _Redirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, file: Any, code: int, *rest: Any) -> Any:
        address = rest[-1]
        if not address.lower().startswith(("http://", "https://")):
            raise urllib.error.URLError(f"{REFUSED}: redirect to {address.split(':')[0]}://")
        return super().redirect_request(request, file, code, *rest)
