"""Where an instance stands that waits in line: how many it is, and when it may be ready."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic

from shared.domain.eta import kind_of_start
from shared.domain.fit import why_never
from shared.domain.instance import Instance
from shared.domain.line import expected_at
from shared.domain.node import Node
from shared.domain.placement import Placement
from shared.placing import LOOKED_AT
from shared.store import Store
from web.tables.node_table import NodeTable

_HOLDERS = 1_000  # records that are looked at for one expectation
_MOST_LOOKS = 1_000  # nodes times those who wait; beyond that, nobody can say in good time
_MOST_S = 0.2  # in one request: a list of many who wait has an expectation of the first of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of one instance in line."""

    position: int | None  # from 1
    eta: float | None  # when it may be ready, epoch seconds; None: nobody can say


class Standings:
    """Says where instances stand; reads the line once, so it is made for each request."""

    def __init__(self, store: Store, nodes: NodeTable) -> None:
        self._store = store
        self._nodes = nodes
        self._line: Sequence[Instance] | None = None
        self._spent_s = 0.0

    def of(self, instance: Instance) -> Standing | None:
        """Return how an instance stands; None if it does not wait.

        Raises:
            StoreUnavailable: nobody can say.
        """
        if not instance.waiting:
            return None
        position = self._store.position(instance.instance_id)
        if position is None or position > LOOKED_AT or self._spent_s > _MOST_S:
            return Standing(position=position, eta=None)
        if self._line is None:
            self._line = self._store.waiting(LOOKED_AT)
        line, began = _up_to(instance, self._line), monotonic()
        eta = self.expected(line) if line else None
        self._spent_s += monotonic() - began
        return Standing(position=position, eta=eta)

    def of_new(self, instance: Instance) -> Standing:
        """Return how an instance would stand if it joined the line now."""
        position = self._store.ahead_of_new(instance.wanted.priority) + 1
        if position > LOOKED_AT:
            return Standing(position=position, eta=None)
        line = self._store.waiting(position - 1) if position > 1 else []
        return Standing(position=position, eta=self.expected([*line, instance]))

    def expected(self, line: Sequence[Instance]) -> float | None:
        """Return when the last of `line` may be ready; None if nobody can say."""
        nodes = [n for n in self._nodes.nodes() if why_never(n, line[-1].wanted) is None]
        if len(nodes) * len(line) > _MOST_LOOKS:
            return None
        held = [claim.instance_id for node in nodes for claim in node.claims]
        found = expected_at(line, nodes, self._holders(held), self._store.now())
        if found is None:
            return None
        at, place = found
        return round(at + (self._start_takes(line[-1], place) or 0.0), 1)

    def _holders(self, held: Sequence[str]) -> Collection[Instance]:
        if len(held) > _HOLDERS:
            return self._store.soonest_due(_HOLDERS)
        return [one for one in self._store.several(held).values() if one]

    def _start_takes(self, instance: Instance, place: Placement) -> float | None:
        """Return how long such starts took, seconds; None without GPUs: their kind is not known."""
        node: Node | None = self._nodes.get(place.node)
        names = [gpu.name for gpu in node.gpus if gpu.uuid in place.shares] if node else []
        if not names:
            return None
        past = self._store.past_starts(kind_of_start(instance.model_name, instance.params, names))
        return median(start.seconds for start in past) if past else None


def _up_to(instance: Instance, line: Sequence[Instance]) -> Sequence[Instance]:
    for number, one in enumerate(line, start=1):
        if one.instance_id == instance.instance_id:
            return line[:number]
    return ()
