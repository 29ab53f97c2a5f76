"""Who asks, and what they may: the rules, without a web server.

While no API key was ever made, a caller is a program on this machine and may do all, because
whoever can create an instance can run code. Since the first key, a caller is who shows a key.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from werkzeug.datastructures import Headers

from shared.domain.instance import Instance
from shared.domain.key import Scope, covers
from shared.domain.params import served_names
from shared.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from web.access.engine_paths import Access
from web.http.headers import FORWARDING

# Nothing else may stand in a Host header: a URL parser would see less than the next program does.
_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?"
)
_LAST_PORT = 65535
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(.*)", re.DOTALL)
_YOURS = f"yours is for {Scope.INFERENCE} only"
WHAT_TO_SEND = "send your key as `Authorization: Bearer vfm_...` or as `x-api-key: vfm_...`"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    name: str
    key_id: str | None  # None: no key, a program on this machine
    scope: Scope
    models: tuple[str, ...]  # globs; empty: all

    def __str__(self) -> str:
        """Say who it is, for events and logs; a name need not be unique."""
        return f"{self.name} (key {self.key_id})" if self.key_id else self.name

    @property
    def may_use_all(self) -> bool:
        """Whether instances of all models, also of those to come, are the caller's."""
        return self.scope is Scope.ADMIN or not self.models

    def may_use(self, instance: Instance) -> bool:
        """Return whether its models are among the caller's, by model name or served name."""
        if self.may_use_all:
            return True
        served = served_names(instance.model_name, instance.params)
        return covers(self.models, (instance.model_name, *served))


LOCAL = Principal(name="local", key_id=None, scope=Scope.ADMIN, models=())
"""A program on this machine, while no key was ever made."""


def authorize(
    principal: Principal, instance_id: str, instance: Instance | None, access: Access, path: str
) -> None:
    """Return if `principal` may send a request to `path` of the instance's engine.

    Args:
        principal: who asks.
        instance_id: which instance they name.
        instance: it, as this process last heard of it; None: it never has.
        access: who may use the path.
        path: as it is sent, without the query.

    Raises:
        NotFound: the instance is of another model than the principal's. Whether it exists is not
            theirs to know, so that is said in the words for one that does not, whatever the path.
        Forbidden: the path is not for them, or for nobody; says what it would take.
    """
    is_theirs = principal.may_use_all if instance is None else principal.may_use(instance)
    if not is_theirs:
        raise NotFound(f"no instance {instance_id}")
    check_path(principal, access, path)


def check_path(principal: Principal, access: Access, path: str) -> None:
    """Return if `principal` may send a request to `path` of an engine that it may use.

    Args:
        principal: who asks.
        access: who may use the path.
        path: as it is sent, without the query.

    Raises:
        Forbidden: the path is not for them, or for nobody; says what it would take.
    """
    if access is Access.CLOSED:
        raise Forbidden(
            f"path {path}: does not pass the proxy by this method; an operator who wants it to "
            "pass for admin keys names it in PROXY_ALLOW_PATHS"
        )
    if access is Access.ADMIN and principal.scope is not Scope.ADMIN:
        raise Forbidden(f"path {path}: this request needs an admin key; {_YOURS}")


def needs_admin(principal: Principal) -> None:
    """Return if `principal` may use the control API.

    Raises:
        Forbidden: it is for inference only.
    """
    if principal.scope is not Scope.ADMIN:
        raise Forbidden(f"the control API needs an admin key; {_YOURS}: /proxy/INSTANCE_ID/v1/...")


def presented_token(authorization: bytes | None, api_key: bytes | None) -> bytes | None:
    """Return the key that a request shows, or None if it shows none.

    Args:
        authorization: value of the header Authorization; another scheme than Bearer is no key.
        api_key: value of the header x-api-key.

    Raises:
        InvalidRequest: both have one, and not the same.
    """
    found = _BEARER.fullmatch(authorization.strip()) if authorization else None
    bearer = found[1].strip() if found else b""
    other = api_key.strip() if api_key else b""
    if bearer and other and bearer != other:
        raise InvalidRequest(
            "x-api-key: another key than in Authorization; which of the two would count is not "
            "plain, so send one",
            field="x-api-key",
        )
    return bearer or other or None


def check_local(
    peer: str | None, headers: Headers, own_names: frozenset[str], *, port: int, scheme: str
) -> None:
    """Return if the request comes from a program on this machine.

    Args:
        peer: address at the other end of the connection.
        headers: of the request, looked up without regard to case.
        own_names: of this machine, see `own_names`.
        port: where this web tier listens; for the advice.
        scheme: by which the request came, http or https.

    Raises:
        Unauthorized: it does not, or it may be a web page's; says which and what to do.
    """

    def refusal(what: str) -> Unauthorized:
        return Unauthorized(
            f"{what}: this fleet has no API keys, so it answers only programs on its own machine, "
            "because whoever can create an instance can run code; make a key (flask --app web keys "
            f"create), or call it from there at http://localhost:{port}, or through an SSH tunnel "
            f"(ssh -L {port}:localhost:{port} this-machine)"
        )

    if not is_loopback(peer or ""):
        raise refusal(f"request from {peer}")
    for name, _ in headers:
        if name.lower() in FORWARDING:
            raise refusal(f"request with the header {name}, from elsewhere")
    # A page of any site can make a browser on this machine ask; its Host or Origin tells.
    host = headers.get("Host", "")
    if not is_own_host(host, own_names):
        raise refusal(f"request for host {_host_name(host)!r}, not a name of this machine")
    # A page on another port of this machine is another program's: only our own may ask.
    origin = headers.get("Origin")
    if origin is not None and origin.lower() != f"{scheme}://{host}".lower():
        raise refusal(f"request by a page of {origin}")
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise refusal("request by a page of another site")


def own_names() -> frozenset[str]:
    """Return the names of this machine, in lower case, besides its loopback addresses."""
    return frozenset({"localhost", socket.gethostname().lower()})


def is_own_host(header: str, own_names: frozenset[str]) -> bool:
    """Return whether a Host header names this machine."""
    host = _host_name(header)
    return host in own_names or is_loopback(host)


def _host_name(host: str) -> str:
    """Return a Host header without its port, in lower case; '' if it is malformed."""
    found = _HOST.fullmatch(host)
    if found is None or int(found["port"] or 0) > _LAST_PORT:
        return ""
    return (found["v6"] or found["name"]).lower()


def is_loopback(address: str) -> bool:
    """Return whether an address is this machine's own; False for what is no address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
