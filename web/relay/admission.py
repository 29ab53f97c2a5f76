"""Who may go the fast way, and to which instance. Whoever may not is told why by the other way."""

from __future__ import annotations

from shared.address import authority
from shared.domain.instance import Instance
from web.auth import LOCAL, Principal, is_loopback, is_own_host
from web.engine_paths import Access, EnginePaths
from web.keys import KeyState, KeyTable
from web.relay.request import PlainRequest
from web.routing import RoutingTable


class Grant:
    """A request that may go to an instance, as long as nothing it was decided upon has changed."""

    __slots__ = ("_instance", "_keys", "_request", "_until", "head")

    def __init__(
        self, request: PlainRequest, instance: Instance, keys: object, until: float
    ) -> None:
        """Hold until the monotonic time `until`, while `keys` are the fleet's keys."""
        self._request = request
        self._instance = instance
        self._keys = keys
        self._until = until
        self.head = engine_head(request, instance)

    def holds(self, request: PlainRequest, instance: Instance, keys: object, now: float) -> bool:
        """Return whether it holds for this request as well."""
        return (
            request is self._request
            and instance is self._instance
            and keys is self._keys
            and now < self._until
        )


class Admission:
    """Decides from what this process knows; asks nobody."""

    def __init__(
        self, table: RoutingTable, keys: KeyTable, paths: EnginePaths, own_names: frozenset[str]
    ) -> None:
        """Decide by these; `own_names` are this machine's, as the loopback rule has them."""
        self.instance_of = table.serving
        self._keys = keys
        self._paths = paths
        self._own_names = own_names

    def admit(self, request: PlainRequest, *, is_local: bool) -> Instance | None:
        """Return the instance to which the request may go as it is; None: the other way."""
        instance = self._table.serving(request.instance_id)
        principal = self._principal(request, is_local=is_local)
        if instance is None or principal is None or not principal.may_use(instance):
            return None
        if self._paths.access(request.path) is not Access.INFERENCE:
            return None
        return instance

    def is_local(self, peer: object) -> bool:
        """Return whether a connection from `peer` comes from this machine."""
        return isinstance(peer, tuple) and is_loopback(str(peer[0]))

    def _principal(self, request: PlainRequest, *, is_local: bool) -> Principal | None:
        state = self._keys.state
        if state is KeyState.KEYED:
            return None if request.token is None else self._keys.principal(request.token)
        if state is KeyState.OPEN and is_local and not request.from_elsewhere:
            return LOCAL if is_own_host(request.host.decode("latin-1"), self._own_names) else None
        return None


def engine_head(request: PlainRequest, instance: Instance) -> bytes:
    """Return the request line and headers for the engine, up to those that differ each time."""
    host = authority(instance.host or "", instance.port or 0).encode()
    handshake = b"\r\nConnection: Upgrade\r\nUpgrade: websocket" if request.websocket else b""
    return b"%b %b HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b%b%b" % (
        request.method, request.target, host, (instance.engine_key or "").encode(), handshake,
        request.headers,
    )  # fmt: skip
