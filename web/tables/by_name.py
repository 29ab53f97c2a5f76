"""Which instances go by which name: what `model` may say, and who answers to it.

Fed by the routing table with each change of an instance; a read is one dict's, and gets a tuple
that nobody changes.
"""

from __future__ import annotations

from bisect import bisect_left

from shared.domain.choice import Replica, replica_of
from shared.domain.instance import Instance
from shared.domain.params import adapter_names, served_names


def names_of(instance: Instance) -> tuple[str, ...]:
    """Return the names by which a request may mean the instance, without the catalogue's aliases.

    Its served names, those of its adapters, and that of the catalogue's model it was made for.
    """
    own = (instance.catalogue,) if instance.catalogue else ()
    return tuple(dict.fromkeys((*engine_names(instance), *own)))


def engine_names(instance: Instance) -> tuple[str, ...]:
    """Return the names that the instance's engine itself takes, the one of answers first."""
    served = served_names(instance.model_name, instance.params)
    return (*served, *adapter_names(instance.params))


class Models:
    """Names → replicas. The routing table changes it, a thread at a time; any may read it."""

    def __init__(self) -> None:
        self._instances: dict[str, Instance] = {}  # all that have not ended, by id
        self._known: dict[str, dict[str, None]] = {}  # name → ids of them
        self._of_catalogue: dict[str, set[str]] = {}  # its model → ids of those made for it
        self._serving: dict[str, _Serving] = {}  # name → those that take requests

    def replicas(self, name: str) -> tuple[Replica, ...]:
        """Return who takes requests for `name`, by their points; the same object until changed."""
        serving = self._serving.get(name)
        return () if serving is None else serving.replicas()

    def instances(self, name: str) -> tuple[Instance, ...]:
        """Return all that go by `name` and have not ended, whether they take requests or not."""
        found = map(self._instances.get, tuple(self._known.get(name, ())))
        return tuple(instance for instance in found if instance is not None)

    def names(self) -> tuple[str, ...]:
        """Return every name that an instance goes by, sorted."""
        return tuple(sorted(self._known))

    def of_catalogue(self) -> frozenset[str]:
        """Return the catalogue's models for which instances were made that have not ended."""
        return frozenset(tuple(self._of_catalogue))

    # what feeds it

    def put(self, instance: Instance) -> None:
        """Take an instance, which has not ended, as it is now."""
        before = self._instances.get(instance.instance_id)
        self._instances[instance.instance_id] = instance
        if before is not None and _is_same(before, instance):
            return
        if instance.catalogue:
            self._of_catalogue.setdefault(instance.catalogue, set()).add(instance.instance_id)
        for name in names_of(instance):  # of one instance they stay the same
            self._known.setdefault(name, {})[instance.instance_id] = None
            self._place(name, replica_of(instance), is_there=instance.serving)

    def drop(self, instance_id: str) -> None:
        """Forget an instance: it has ended."""
        instance = self._instances.pop(instance_id, None)
        if instance is None:
            return
        made_for = self._of_catalogue.get(instance.catalogue, set())
        made_for.discard(instance_id)
        if not made_for:
            self._of_catalogue.pop(instance.catalogue, None)
        for name in names_of(instance):
            self._place(name, replica_of(instance), is_there=False)
            known = self._known[name]
            del known[instance_id]
            if not known:
                del self._known[name]

    def _place(self, name: str, replica: Replica, *, is_there: bool) -> None:
        serving = self._serving.get(name)
        if serving is None:
            serving = _Serving()
            if is_there:
                self._serving[name] = serving
        serving.place(replica, is_there=is_there)
        if not serving:
            self._serving.pop(name, None)


class _Serving:
    """Replicas of one name in the order of their points, of which there may be thousands.

    A change costs no copy of the others: that is made for the next reader, if there is one.
    """

    __slots__ = ("_ordered", "_read", "_version")

    def __init__(self) -> None:
        self._ordered: list[Replica] = []
        self._version = 0  # counts changes
        self._read: tuple[int, tuple[Replica, ...]] = (0, ())  # as of which version

    def __bool__(self) -> bool:
        return bool(self._ordered)

    def place(self, replica: Replica, *, is_there: bool) -> None:
        """Have it there, or not; one of the same point is replaced."""
        at = bisect_left(self._ordered, replica.point, key=_point)
        same = at < len(self._ordered) and self._ordered[at].point == replica.point
        self._ordered[at : at + same] = [replica] if is_there else []
        self._version += 1  # only now: who reads meanwhile takes the new ones for the old

    def replicas(self) -> tuple[Replica, ...]:
        """Return all, the same object until something changes."""
        version, read = self._read
        if version != self._version:
            version = self._version
            read = tuple(self._ordered)
            self._read = (version, read)
        return read


def _point(replica: Replica) -> int:
    return replica.point


def _is_same(one: Instance, other: Instance) -> bool:
    """Return whether requests go to both alike."""
    return (one.serving, one.host, one.port, one.engine_key) == (
        other.serving, other.host, other.port, other.engine_key,
    )  # fmt: skip
