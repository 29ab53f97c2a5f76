"""Who may ask.

Until API keys exist: only this machine, because whoever can create an instance can run code.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from flask import Flask, request
from werkzeug.datastructures import Headers

from shared.errors import Unauthorized

_FORWARDING = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Proto",
    "X-Forwarded-Server",
    "X-Real-IP",
    "X-Client-IP",
    "CF-Connecting-IP",
    "Via",
)
# Nothing else may stand in a Host header: a URL parser would see less than the next program does.
_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?"
)
_LAST_PORT = 65535
_WHAT_TO_DO = (
    "this fleet has no API keys, so it answers only programs on its own machine, because whoever "
    "can create an instance can run code; call it from there at http://localhost, or through an "
    "SSH tunnel (ssh -L 5000:localhost:5000 this-machine)"
)


def add_auth(app: Flask) -> None:
    """Have every request checked before anything looks at it."""
    own_names = frozenset({"localhost", socket.gethostname().lower()})

    @app.before_request
    def check() -> None:
        check_local(request.remote_addr, request.headers, own_names)


def check_local(peer: str | None, headers: Headers, own_names: frozenset[str]) -> None:
    """Return if the request comes from a program on this machine.

    Args:
        peer: address at the other end of the connection.
        headers: of the request, looked up without regard to case.
        own_names: names of this machine, in lower case, besides its loopback addresses.

    Raises:
        Unauthorized: it does not, or it may be a web page's; says which and what to do.
    """
    if not _is_loopback(peer or ""):
        raise Unauthorized(f"request from {peer}: {_WHAT_TO_DO}")
    for name in _FORWARDING:
        if name in headers:
            raise Unauthorized(f"request with the header {name}, from elsewhere: {_WHAT_TO_DO}")
    # A page of any site can make a browser on this machine ask; its Host or Origin tells.
    host = _host_name(headers.get("Host", ""))
    if not _is_own(host, own_names):
        raise Unauthorized(f"request for host {host!r}, not a name of this machine: {_WHAT_TO_DO}")
    origin = headers.get("Origin")
    if origin is not None and not _is_own(_origin_host(origin), own_names):
        raise Unauthorized(f"request by a page of {origin}: {_WHAT_TO_DO}")
    if headers.get("Sec-Fetch-Site") == "cross-site":
        raise Unauthorized(f"request by a page of another site: {_WHAT_TO_DO}")


def _is_own(host: str, own_names: frozenset[str]) -> bool:
    return host in own_names or _is_loopback(host)


def _host_name(host: str) -> str:
    """Return a Host header without its port, in lower case; '' if it is malformed."""
    found = _HOST.fullmatch(host)
    if found is None or int(found["port"] or 0) > _LAST_PORT:
        return ""
    return (found["v6"] or found["name"]).lower()


def _origin_host(origin: str) -> str:
    scheme, separator, host = origin.partition("://")
    return _host_name(host) if separator and scheme in ("http", "https") else ""


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
