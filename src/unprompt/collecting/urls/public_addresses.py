"""img2dataset's downloader, restricted to public addresses."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import urllib.error
import urllib.request
from typing import Any

from img2dataset.downloader import Downloader

from unprompt.parallel import end_with_parent

REFUSED = "refused"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class WatchedDownloader(Downloader):
    """Downloads a shard in a worker process that ends with its parent.

    A worker that outlived a killed parent would write the same shard as the next call.
    """

    def __call__(self, row: Any) -> Any:
        """Download one shard; see img2dataset."""
        end_with_parent()
        return super().__call__(row)


class GuardedDownloader(WatchedDownloader):
    """Downloads a shard in a worker process that connects to public addresses only.

    Each address is checked just before the connection, also after a redirect, and the connection
    uses the checked address. So a host name cannot change its address in between.
    """

    def __call__(self, row: Any) -> Any:
        """Download one shard; see img2dataset."""
        urllib.request.install_opener(guarded_opener())
        return super().__call__(row)


def guarded_opener() -> urllib.request.OpenerDirector:
    """An opener of http and https URLs that connects only to public addresses."""
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
    """Connect to a host at one of its public addresses.

    Raises:
        OSError: the host has no public address, or cannot be reached.
    """
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    public = [info for info in found if is_public(str(info[4][0]))]
    if not public:
        raise OSError(f"{REFUSED}: {host} has no public address")
    failure: OSError | None = None
    for info in public:
        try:
            return socket.create_connection((str(info[4][0]), port), timeout, source)
        except OSError as error:
            failure = error
    raise failure or OSError(f"{host} cannot be reached")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    An IPv6 address that contains an IPv4 address (mapped, 6to4, NAT64) is public if that one is.
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
