"""Which instance a request for a model goes to, by what this process knows. Touches no Redis.

The decision itself is `shared.domain.choice`; here is what it is made upon.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Sequence
from itertools import count
from time import monotonic

from shared.domain.choice import Replica, Routing, bounded, from_point, from_turn, least, sticky
from shared.domain.instance import Instance, Status
from shared.domain.key import covers
from shared.errors import InstanceNotReady, ModelNotFound
from web.access.auth import Principal
from web.models.waiting_room import Place, WaitingRoom
from web.tables.activity import Activity
from web.tables.by_name import Models
from web.tables.refusals import refusal_of

_LEFT_OUT_S = 5.0  # by then its worker has seen what became of it, and the table has heard
_MOST_LEFT_OUT = 1024
_MOST_ASKED = 64  # a round trip each, of a millisecond or two
_NAMED = 20  # models, in a refusal

Address = tuple[str, int | None]


class Router:
    """Chooses replicas; any thread may ask it, and waits for nobody.

    Args:
        models: who goes by which name.
        activity: which requests this process has under way.
        routing: by what to choose.
        reported_waiting: requests that wait in an instance's engine, as its node last said.
        is_lost: whether a node is silent, so that its instances are the last resort.
        room: where requests for models wait that the catalogue can start.
    """

    def __init__(
        self,
        models: Models,
        activity: Activity,
        routing: Routing = Routing.LEAST,
        *,
        reported_waiting: Callable[[str], int] = lambda _: 0,
        is_lost: Callable[[str], bool] = lambda _: False,
        room: WaitingRoom | None = None,
    ) -> None:
        self._models = models
        self._running = activity.running
        self.routing = routing
        self._reported_waiting = reported_waiting
        self._is_lost = is_lost
        self.room = room
        self._left_out: dict[Address, float] = {}  # until when, oldest first
        self._leaving_out = threading.Lock()
        self._turns = count(secrets.randbelow(2**32))  # unlike those of other processes

    def replicas(self, name: str, principal: Principal) -> Sequence[Replica]:
        """Return who takes requests for `name` and is open to `principal`; may be nobody."""
        found = self._models.replicas(name) or self._models.replicas(self._unaliased(name))
        if found and self._is_lost(found[0].instance.node) and self._is_replaced(found):
            return ()
        if not found or principal.may_use_all or covers(principal.models, (name,)):
            return found
        return [replica for replica in found if principal.may_use(replica.instance)]

    def choose(
        self, replicas: Sequence[Replica], point: int | None, tried: Collection[str] = ()
    ) -> Instance | None:
        """Return the replica for a request; None once all of them were tried.

        Args:
            replicas: those that may have it, by their points.
            point: of the request's session or prefix; None: by load alone.
            tried: ids of those that took no connection for this request.
        """
        if len(replicas) == 1:
            only = replicas[0].instance
            return None if only.instance_id in tried else only
        turn = next(self._turns)
        near = from_turn(replicas, turn) if point is None else from_point(replicas, point)
        if tried:
            near = [replica for replica in near if replica.instance.instance_id not in tried]
        if not near:
            return None
        found = self._pick(near, point)
        if not self._is_good(found):
            good = [replica for replica in near if self._is_good(replica.instance)]
            if good:  # in turn, too, so that none has the share of one that is not
                good.sort(key=lambda replica: replica.point)
                found = self._pick(from_turn(good, turn), point)
        return found

    def refused(self, instance: Instance) -> None:
        """Hear that the instance took no connection: the next requests go elsewhere."""
        address = instance.host, instance.port
        with self._leaving_out:
            self._left_out.pop(address, None)
            self._left_out[address] = monotonic() + _LEFT_OUT_S
            if len(self._left_out) > _MOST_LEFT_OUT:
                del self._left_out[next(iter(self._left_out))]

    def anywhere(self, name: str | None, principal: Principal) -> Sequence[Replica]:
        """Return who takes requests, is open to `principal`, and goes by `name` if one is given.

        At most a few dozen, some of each name: what is asked of all of them is asked one by one.
        """
        names = self._models.names() if name is None else [name]
        found: dict[int, Replica] = {}
        for each in names:
            for replica in self.replicas(each, principal)[:_MOST_ASKED]:
                found[replica.point] = replica
            if len(found) >= _MOST_ASKED:
                break
        return list(found.values())[:_MOST_ASKED]

    def knows(self, name: str) -> bool:
        """Return whether there is a model of that name, running or not."""
        return bool(self._models.instances(name)) or bool(self._unaliased(name))

    def enter(self, name: str, principal: Principal, wake: Callable[[], None]) -> Place:
        """Have a replica started of a model that has none; return the place in its line.

        Args:
            name: of the model.
            principal: who asks.
            wake: called from any thread when waiting has an end.

        Raises:
            ModelNotFound: there is no such model, for `principal`.
            InstanceNotReady: nobody takes requests now, and nobody is to be started; or too many
                wait already.
        """
        if self.room is None or not self.may_start(name, principal):
            raise self.refusal(name, principal)
        return self.room.enter(name, wake)

    def may_start(self, name: str, principal: Principal) -> bool:
        """Return whether the catalogue has a model of that name that `principal` may use."""
        entry = None if self.room is None else self.room.catalogue.find(name)
        return entry is not None and (
            principal.may_use_all or covers(principal.models, (entry.model, *entry.served))
        )

    def refusal(self, name: str, principal: Principal) -> InstanceNotReady | ModelNotFound:
        """Return what to answer where nobody takes requests for `name`, and nobody will be."""
        found = self._models.instances(name) or self._models.instances(self._unaliased(name))
        theirs = [instance for instance in found if principal.may_use(instance)]
        if theirs:
            refusal = refusal_of(nearest(theirs))
            return InstanceNotReady(
                f"model {name!r}: {refusal}", retry_after_s=refusal.retry_after_s
            )
        names = self.names(principal)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        listed = ", ".join(names[:_NAMED]) + more if names else "none"
        return ModelNotFound(f"model {name!r} does not exist; models there are: {listed}")

    def names(self, principal: Principal) -> list[str]:
        """Return the names of all models that `principal` may use, running or not, sorted."""
        named = {
            name
            for name in self._models.names()
            if any(principal.may_use(instance) for instance in self._models.instances(name))
        }
        if self.room is not None:
            entries = self.room.catalogue.entries
            named |= {name for name in entries if self.may_start(name, principal)}
        return sorted(named)

    def _is_replaced(self, replicas: Sequence[Replica]) -> bool:
        """Return whether all are lost, and another is to be waited for rather than asked for."""
        if self.room is None:
            return False
        entries = self.room.catalogue.entries
        return all(
            self._is_lost(one.instance.node) and one.instance.catalogue in entries
            for one in replicas
        )

    def _pick(self, replicas: Sequence[Replica], point: int | None) -> Instance:
        if point is None:
            return least(replicas, self._load).instance
        if self.routing is Routing.SESSION:
            return sticky(replicas, point).instance
        return bounded(replicas, point, self._load).instance

    def _unaliased(self, name: str) -> str:
        entry = None if self.room is None else self.room.catalogue.find(name)
        return "" if entry is None else entry.name

    def _is_good(self, instance: Instance) -> bool:
        until = self._left_out.get((instance.host, instance.port)) if self._left_out else None
        return (until is None or until <= monotonic()) and not self._is_lost(instance.node)

    def _load(self, instance_id: str) -> int:
        return self._running(instance_id) + self._reported_waiting(instance_id)


_ORDER = {
    status: place
    for place, status in enumerate(
        (
            Status.RUNNING, Status.STARTING, Status.PENDING, Status.BACKOFF, Status.UNHEALTHY,
            Status.STOPPING, Status.FAILED,
        )
    )
}  # fmt: skip


def nearest(instances: Collection[Instance]) -> Instance:
    """Return the one of several that takes requests, or is nearest to it."""
    return min(instances, key=lambda instance: _ORDER.get(instance.shown_status, len(_ORDER)))
