"""Nodes, in this process's memory."""

from __future__ import annotations

import queue
from collections import defaultdict
from collections.abc import Callable, Collection, Generator
from dataclasses import replace

from shared.domain.node import (
    Claim,
    Node,
    NodeReport,
    Orphan,
    as_just_freed,
    heartbeat_age,
    is_reported_anew,
)
from shared.store import name_taken
from shared.store.memory_listing import MemoryListing
from shared.store.memory_part import heard
from shared.store.nodes import Beat, NodesSince


class MemoryNodes(MemoryListing):
    """Keeps the `Nodes` promise for the threads of one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._claims: dict[str, dict[str, Claim]] = defaultdict(dict)
        self._nodes: dict[str, Node] = {}
        self._reports: dict[str, NodeReport] = {}
        self._cordons: dict[str, Beat] = {}
        self._freed_at: dict[str, float] = {}
        self._epochs: dict[str, int] = defaultdict(int)
        self._holders: dict[str, str] = {}
        self._beats: dict[str, float] = {}
        self._node_listeners: list[queue.SimpleQueue[str]] = []

    def announce(
        self, node: Node, holder: str, *, last_epoch: int = 0, beating: bool = True
    ) -> int:
        """Record `node` as its worker starts; return its new epoch."""
        with self._lock:
            other = self._holders.get(node.name, holder) != holder
            if other and not self._node(node.name).lost:
                raise name_taken(node.name)
            if node.name not in self._nodes and node.cordoned:
                self._cordons[node.name] = Beat.DRAINING if node.draining else Beat.CORDONED
            self._holders[node.name] = holder
            self._nodes[node.name] = node
            self._reports.pop(node.name, None)
            if beating:
                self._beats[node.name] = self._clock()
            self._epochs[node.name] = max(self._epochs[node.name], last_epoch) + 1
            self._node_changed(node.name)
            return self._epochs[node.name]

    def heartbeat(self, name: str, epoch: int, report: NodeReport | None = None) -> Beat:
        """Say that the node lives; return what the store makes of it."""
        with self._lock:
            if name not in self._nodes:
                return Beat.UNKNOWN
            if self._epochs[name] < epoch:
                return Beat.BEHIND
            if self._epochs[name] != epoch:
                return Beat.SUPERSEDED
            if report:
                self._reports[name] = report
            came, freed_at = name not in self._beats, self._freed_at.get(name)
            self._beats[name] = self._clock()
            anew = freed_at is not None and is_reported_anew(self._clock() - freed_at)
            if anew:
                del self._freed_at[name]
            if came or report or anew:
                self._node_changed(name, quietly=not came)
            return self._cordons.get(name, Beat.OK)

    def report_orphans(self, name: str, epoch: int, orphans: Collection[Orphan]) -> None:
        """Say which engines run on the node that neither it nor the store knows."""
        with self._lock:
            if self._epochs.get(name) == epoch:
                self._nodes[name] = replace(self._nodes[name], orphans=tuple(orphans))
                self._node_changed(name)

    def retire(self, name: str, epoch: int) -> None:
        """Take the node out of placement at once, as its worker stops."""
        with self._lock:
            if self._epochs.get(name) == epoch:
                self._beats.pop(name, None)
                self._node_changed(name)

    def cordon(self, name: str, *, drain: bool = False) -> Node | None:
        """Have nothing new placed on the node; return it, or None if there is none."""
        with self._lock:
            if name in self._nodes:
                before = self._cordons.get(name)
                drain = drain or before is Beat.DRAINING
                self._cordons[name] = Beat.DRAINING if drain else Beat.CORDONED
                self._node_changed(name)
            return self.node(name)

    def uncordon(self, name: str) -> Node | None:
        """Take back cordon and drain; return the node, or None if there is none."""
        with self._lock:
            if self._cordons.pop(name, None):
                self._node_changed(name)
            return self.node(name)

    def forget_node(self, name: str) -> bool:
        """Remove a node that is lost and holds no claim; return False if that is not so."""
        with self._lock:
            node = self.node(name)
            if node is None or not node.lost or node.claims:
                return False
            for kept in (self._nodes, self._reports, self._cordons, self._epochs):
                kept.pop(name, None)
            self._holders.pop(name, None)
            self._beats.pop(name, None)
            self._node_changed(name)
            return True

    def nodes(self, names: Collection[str] | None = None) -> list[Node]:
        """Return nodes with their claims, lost ones too, by name: all, or those of these names."""
        with self._lock:
            wanted = self._nodes.keys() if names is None else self._nodes.keys() & names
            return [self._node(name) for name in sorted(wanted)]

    def node(self, name: str) -> Node | None:
        """Return one node with its claims, lost or not; None if there is none."""
        with self._lock:
            return self._node(name) if name in self._nodes else None

    def nodes_since(self, cursor: str) -> NodesSince:
        """Return the nodes that changed since `cursor`; costs what changed, not what there is."""
        with self._lock:
            now, changed = self._changed_since("nodes", cursor)
            names = self._nodes if changed is None else changed
            lost = {
                node.name: self._clock() - self._beats[node.name]
                for node in self.nodes()
                if node.lost and node.name in self._beats
            }
            found = {name: self.node(name) for name in names}
            return NodesSince(cursor=now, whole=changed is None, found=found, lost=lost)

    def node_changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield the names of nodes of which something changes, from now on."""
        return heard(self._node_listeners, timeout_s)

    def _node(self, name: str) -> Node:
        announced = replace(
            self._nodes[name],
            heartbeat_age_s=heartbeat_age(self._beats.get(name), self._clock()),
            epoch=self._epochs[name],
            cordoned=name in self._cordons,
            draining=self._cordons.get(name) is Beat.DRAINING,
            claims=tuple(claim for _, claim in sorted(self._claims[name].items())),
        )
        report = self._reports.get(name)
        told = report.told_of(announced) if report else announced
        freed_at = self._freed_at.get(name)
        return as_just_freed(told, None if freed_at is None else self._clock() - freed_at)

    def _node_changed(self, name: str, *, quietly: bool = False) -> None:
        self._mark("nodes", name)
        for listener in () if quietly else self._node_listeners:
            listener.put(name)
