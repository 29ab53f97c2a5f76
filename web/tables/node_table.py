"""This process's node table: every node with its claims, as last heard.

Fed by the store's notifications, and by asking each second what has changed; that costs what has
changed, not what there is. With the store away it stays as it is: nobody can say that a node is
lost then, and requests go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import inf
from time import monotonic

from shared.domain.node import Load, Node
from shared.store import Store
from web.tables.following_store import FollowingStore

_REFRESH_S = 1.0  # also how late a node is found lost
_GATHER_S = 0.05  # between two reads for notifications: a node changes with each claim


class NodeTable:
    """Knows every node. Whoever reads it waits for nobody: each read is one dict's.

    Ages of heartbeats in it are only good for telling who is lost: of one that is not, it is the
    age that it had when the node last changed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._nodes: dict[str, Node] = {}  # by name, in that order
        self._lost: Mapping[str, float] = {}  # name → seconds of silence
        self._cursor = ""
        self._read_at = -inf  # by time.monotonic()
        self._loads: dict[str, Load] = {}  # by instance id
        self._reading = threading.Lock()  # held to read the store and take what it says
        self._begun = 0  # such reads, counted
        self._read = 0  # the last of them that came to its end
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._following = FollowingStore(
            "node table", self, store.node_changes, refresh_s=_REFRESH_S
        )

    def start(self) -> None:
        """Begin to follow the store, in a thread of its own."""
        self._following.start()

    def close(self) -> None:
        """Stop following, at the next notification or refresh."""
        self._closed.set()
        self._following.close()

    def get(self, name: str) -> Node | None:
        """Return a node as last heard; never blocks."""
        return self._nodes.get(name)

    def nodes(self) -> list[Node]:
        """Return all nodes as last heard, by name; never blocks."""
        return list(self._nodes.values())

    def is_lost(self, name: str) -> bool:
        """Return whether the node is known and silent, or its worker has left; never blocks."""
        node = self._nodes.get(name)
        return node is not None and node.lost

    def why_lost(self, name: str) -> str:
        """Return how a node is lost; "" if it is not, or not known; never blocks."""
        node = self._nodes.get(name)
        return node.silence if node is not None and node.lost else ""

    def reported_waiting(self, instance_id: str) -> int:
        """Return how many requests wait in an instance's engine, as its node last said."""
        load = self._loads.get(instance_id)
        return 0 if load is None else load.waiting

    def wait_for(
        self, name: str, done: Callable[[Node | None], bool], timeout_s: float
    ) -> Node | None:
        """Return the node once `done` says so, or as it is when the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: done(self._nodes.get(name)), timeout_s)
            return self._nodes.get(name)

    # what feeds it

    def hear(self, changed: Collection[str]) -> None:
        """Read what has changed; blocks for a moment if that was just done."""
        del changed
        self._closed.wait(max(0.0, self._read_at + _GATHER_S - monotonic()))
        self.refresh()

    def refresh(self) -> None:
        """Read what has changed since the last time: after it, the table is as the store is.

        Raises:
            StoreUnavailable: nothing is forgotten.
        """
        asked_at = self._begun
        with self._reading:
            if self._read > asked_at:  # by somebody else, who began after we asked
                return
            self._begun += 1
            self._read_at = monotonic()
            since = self._store.nodes_since(self._cursor)
            nodes = {} if since.whole else dict(self._nodes)
            is_new = since.whole or not since.found.keys() <= nodes.keys()
            gone = self._nodes.keys() - since.found.keys() if since.whole else ()
            for name, node in {**dict.fromkeys(gone), **since.found}.items():
                self._take_loads(name, node)
                if node is None:
                    nodes.pop(name, None)
                else:
                    nodes[name] = node
            back = self._lost.keys() - since.lost.keys() - since.found.keys()
            for name, age in {**dict.fromkeys(back, 0.0), **since.lost}.items():
                if name in nodes and not _told(nodes[name], age):
                    nodes[name] = replace(nodes[name], heartbeat_age_s=_silence(age))
            if is_new:
                nodes = dict(sorted(nodes.items()))
            with self._changed:
                self._nodes, self._lost, self._cursor = nodes, since.lost, since.cursor
                self._read = self._begun
                self._changed.notify_all()

    def _take_loads(self, name: str, node: Node | None) -> None:
        before = self._nodes.get(name)
        now = node.loads if node is not None else {}
        for instance_id in before.loads if before is not None else {}:
            if instance_id not in now:
                self._loads.pop(instance_id, None)
        self._loads.update(now)

    def lose(self) -> str:
        """Hear that the store does not answer; return what goes on meanwhile."""
        self._cursor = ""
        return "nodes count as they were"


def _told(node: Node, age_s: float) -> bool:
    # All may be lost at once, and are looked at many times a second then.
    known_s = node.heartbeat_age_s
    return node.lost and known_s is not None and 0.0 <= age_s - known_s < 1.0


def _silence(age_s: float) -> float | None:
    # A beat in the future is from before the clock was set back: of a node that is gone.
    return age_s if age_s >= 0.0 else None
