"""Who may go the fast way, and to which instance. Whoever may not is told why by the other way."""

from __future__ import annotations

from shared.address import authority
from shared.domain.instance import Instance
from web.access.auth import LOCAL, Principal, is_loopback, is_own_host, own_names
from web.access.engine_paths import Access, EnginePaths
from web.access.keys import KeysState, KeyTable
from web.relay.request import PlainRequest
from web.tables.by_name import engine_names
from web.tables.routing import RoutingTable

_HOLDS_S = 1.0  # so that an expiry is noticed soon; a change of keys is noticed at once


class Grant:
    """A plain request that may go to an instance, while what that was decided upon stays so."""

    __slots__ = ("head", "instance", "keys", "request", "until")

    def __init__(
        self, request: PlainRequest, instance: Instance, keys: object, until: float
    ) -> None:
        """Hold until the monotonic time `until`, while `keys` are the fleet's."""
        self.request = request
        self.instance = instance
        self.keys = keys
        self.until = until
        self.head = engine_head(request, instance)


class ModelGrant:
    """A plain request that may go to a model's replicas, while what that rests on stays so."""

    __slots__ = ("_known", "keys", "principal", "request", "until")

    def __init__(
        self, request: PlainRequest, principal: Principal, keys: object, until: float
    ) -> None:
        """Hold until the monotonic time `until`, while `keys` are the fleet's."""
        self.request = request
        self.principal = principal
        self.keys = keys
        self.until = until
        self._known: dict[str, tuple[Instance, bytes, frozenset[str]]] = {}  # by instance id

    def head_for(self, instance: Instance) -> bytes:
        """Return the head for an instance's engine, as `engine_head` does."""
        return self._of(instance)[1]

    def knows(self, instance: Instance, name: str) -> bool:
        """Return whether an instance's engine takes requests for that name, or needs none."""
        return name in self._of(instance)[2] or bool(self.request.model)

    def _of(self, instance: Instance) -> tuple[Instance, bytes, frozenset[str]]:
        known = self._known.get(instance.instance_id)
        if known is None or known[0] is not instance:
            head = engine_head(self.request, instance)
            known = instance, head, frozenset(engine_names(instance))
            self._known[instance.instance_id] = known
        return known


class Admission:
    """Decides from what this process knows; asks nobody."""

    def __init__(self, table: RoutingTable, keys: KeyTable, paths: EnginePaths) -> None:
        """Decide by these."""
        self._instance_of = table.serving
        self._keys = keys
        self._paths = paths
        self._own_names = own_names()
        self.gone = table.gone
        self.unreached = table.unreached
        self.another_answers = table.another_answers

    def admit(
        self, request: PlainRequest, last: Grant | None, now: float, *, is_local: bool
    ) -> tuple[Instance, Grant] | None:
        """Return where the request may go as it is, and by which grant; None: the other way.

        Args:
            request: what to decide upon.
            last: the grant of the request before it, over the same connection.
            now: monotonic time.
            is_local: the connection comes from this machine.
        """
        instance = self._instance_of(request.instance_id)
        if instance is None:
            return None
        keys = self._keys.snapshot
        if (  # the same head, over one connection, and nothing has changed since
            last is not None
            and request is last.request
            and instance is last.instance
            and keys is last.keys
            and now < last.until
        ):
            return instance, last
        principal = self._principal(request, is_local=is_local)
        if principal is None or not principal.may_use(instance):
            return None
        if self._paths.access(request.path, request.method.decode()) is not Access.INFERENCE:
            return None
        return instance, Grant(request, instance, keys, now + _HOLDS_S)

    def admit_to_models(
        self, request: PlainRequest, last: ModelGrant | None, now: float, *, is_local: bool
    ) -> ModelGrant | None:
        """Return the grant by which the request may go to a model's replicas; None: the other way.

        Which models are its principal's is for the router to say. Arguments as for `admit`.
        """
        keys = self._keys.snapshot
        if last is not None and request is last.request and keys is last.keys and now < last.until:
            return last
        principal = self._principal(request, is_local=is_local)
        if principal is None:
            return None
        if self._paths.access(request.path, request.method.decode()) is not Access.INFERENCE:
            return None
        return ModelGrant(request, principal, keys, now + _HOLDS_S)

    def still_may_use(self, request: PlainRequest, instance: Instance, *, is_local: bool) -> bool:
        """Return whether who was admitted to the instance is still one whom it is open to."""
        principal = self._principal(request, is_local=is_local)
        return principal is not None and principal.may_use(instance)

    def is_local(self, peer: object) -> bool:
        """Return whether a connection from `peer` comes from this machine."""
        return isinstance(peer, tuple) and is_loopback(str(peer[0]))

    def _principal(self, request: PlainRequest, *, is_local: bool) -> Principal | None:
        state = self._keys.state
        if state is KeysState.KEYED:
            return None if request.token is None else self._keys.principal(request.token)
        if state is KeysState.OPEN and is_local and not request.from_elsewhere:
            return LOCAL if is_own_host(request.host.decode("latin-1"), self._own_names) else None
        return None


def engine_head(request: PlainRequest, instance: Instance) -> bytes:
    """Return the request line and headers for the engine, up to those that differ each time."""
    host = authority(instance.host, instance.port or 0).encode()
    handshake = b"\r\nConnection: Upgrade\r\nUpgrade: websocket" if request.websocket else b""
    return b"%b %b HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b%b%b" % (
        request.method, request.target, host, instance.engine_key.encode(), handshake,
        request.headers,
    )  # fmt: skip
