"""The replicas of the catalogue's models: which there are, new ones, and their end.

Each is made for a slot. Of a slot the store makes one replica, and another only once that one has
failed or is to stop: so web processes that all see one missing make one together.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from shared.domain.catalogue import Entry
from shared.domain.instance import Instance, Status
from shared.domain.scaling import idle_timeouts
from shared.errors import RecordUnreadable
from shared.queue import Doorbells
from shared.store import Once, Store
from shared.store.history import REPLICA
from web.control.creation import Creation
from web.control.schemas import CreateRequest
from web.tables.by_name import Models
from web.tables.node_table import NodeTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """The replicas of one model, as this process knows them."""

    staying: tuple[Instance, ...]  # that run, or are on their way to
    leaving: tuple[Instance, ...]  # those of nodes that are drained: they serve, for a while
    lost: tuple[Instance, ...]  # those of nodes that are silent: nobody knows whether they serve
    over: tuple[Instance, ...]  # that have failed, or are to stop


class Replicas:
    """Knows, makes and ends replicas; the latter two are safe to repeat."""

    def __init__(
        self,
        store: Store,
        doorbells: Doorbells,
        creation: Creation,
        models: Models,
        nodes: NodeTable,
    ) -> None:
        self._store = store
        self._doorbells = doorbells
        self._creation = creation
        self._models = models
        self._nodes = nodes

    def of(self, model: str) -> Seen:
        """Return what was made for the catalogue's `model` and has not ended; never blocks."""
        staying, leaving, lost, over = [], [], [], []
        for one in self._models.instances(model):
            if one.catalogue != model:
                continue
            node = self._nodes.get(one.node) if one.node else None
            if not one.counts:
                over.append(one)
            elif node is not None and node.lost:
                lost.append(one)
            elif node is not None and node.draining:
                leaving.append(one)
            else:
                staying.append(one)
        return Seen(tuple(staying), tuple(leaving), tuple(lost), tuple(over))

    def start(self, entry: Entry, *, at_most: int) -> Instance | None:
        """Make one more replica, in the first slot that is free; None: there are `at_most`.

        Those that leave their node, or are lost with it, are not among them. Idle instances make
        room for it, or it waits in line. Records of replicas that have failed before are ended.

        Raises:
            InvalidRequest: the policy does not allow it.
            NoCapacity: no node will ever have room for it.
            RecordUnreadable: there are `at_most`, of which one may be anything.
            StoreUnavailable: try again.
        """
        seen = self.of(entry.name)
        always = sum(one.timeout == 0 for one in seen.staying)
        asked = _asked(entry, always_runs=entry.pinned or always < entry.min_replicas)
        unreadable: RecordUnreadable | None = None
        for slot in range(at_most + len(seen.leaving) + len(seen.lost)):
            once = Once(name=f"catalogue:{entry.name}:{slot}", fingerprint=REPLICA)
            try:
                made, is_new = self._creation.create(
                    asked, who="catalogue", once=once, catalogue=entry.name
                )
            except RecordUnreadable as error:
                unreadable = error
                continue
            if is_new:
                log.info("model %s: instance %s is started", entry.name, made.instance_id)
                for one in seen.over:
                    if one.status is Status.FAILED:
                        self.stop(one, "it failed, and another has been started", by="catalogue")
                return made
        if unreadable:
            raise unreadable
        return None

    def retime(self, entry: Entry, seen: Seen) -> None:
        """Have replicas stop as idle when the catalogue says so now, which may have changed.

        Raises:
            StoreUnavailable: try again.
        """
        timeouts = idle_timeouts(entry, seen.staying, self._creation.default_timeout)
        for one in seen.staying:
            if one.timeout != timeouts[one.instance_id]:
                self._store.retime(one.instance_id, timeouts[one.instance_id], who="catalogue")

    def models(self) -> frozenset[str]:
        """Return the models of the catalogue, as it is or was, that have replicas."""
        return self._models.of_catalogue()

    def release(self, known: Collection[str]) -> None:
        """Have those stop as idle that run always, for models that are not `known` any more.

        Raises:
            StoreUnavailable: try again.
        """
        for model in self.models().difference(known):
            for one in self.of(model).staying:
                if one.timeout == 0:
                    default = self._creation.default_timeout
                    self._store.retime(one.instance_id, default, who="catalogue")

    def stop(self, replica: Instance, reason: str, *, by: str) -> None:
        """Have a replica stop; one whose record cannot be read goes on.

        Raises:
            StoreUnavailable: try again.
        """
        stopped: Instance | None = None
        with suppress(RecordUnreadable):  # the store has said it
            stopped = self._store.stop(replica.instance_id, reason=reason, by=by, who="catalogue")
        if stopped is not None and not stopped.ended:
            self._doorbells.stop(stopped)


def _asked(entry: Entry, *, always_runs: bool) -> CreateRequest:
    return CreateRequest(
        model_name=entry.model,
        params={**entry.params, "served_model_name": entry.served},
        env=entry.env,
        timeout=0 if always_runs else entry.timeout,
        labels=entry.labels,
        queue=True,
        evict=True,
        priority=entry.priority,
    )
