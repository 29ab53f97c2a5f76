"""Nodes, on Redis: a hash of each, its claims, and which of them changed when."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Generator, Iterable
from functools import lru_cache

import redis

from shared.domain.node import (
    LOST_AFTER_S,
    Gpu,
    Node,
    NodeReport,
    Orphan,
    as_just_freed,
    heartbeat_age,
)
from shared.store import name_taken, node_scripts
from shared.store.codec import (
    decode_claims,
    decode_gpus,
    decode_orphans,
    decode_report,
    encode_gpus,
    encode_orphans,
    encode_report,
)
from shared.store.keys import Keys
from shared.store.nodes import Beat, NodesSince
from shared.store.redis_client import answering, flat
from shared.store.redis_listing import RedisListing, is_known

_REMEMBERED = 1024  # what nodes reported last: of a node that changes, that mostly does not

log = logging.getLogger(__name__)


class RedisNodes(RedisListing):
    """Keeps the `Nodes` promise."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self._unreadable_nodes: set[str] = set()  # what this process came across
        self._announce = self._script(node_scripts.ANNOUNCE)
        self._heartbeat = self._script(node_scripts.HEARTBEAT)
        self._orphans = self._script(node_scripts.ORPHANS)
        self._cordon = self._script(node_scripts.CORDON)
        self._forget_node = self._script(node_scripts.FORGET_NODE)
        self._nodes_since = self._script(node_scripts.NODES_SINCE)

    @answering
    def announce(
        self, node: Node, holder: str, *, last_epoch: int = 0, beating: bool = True
    ) -> int:
        """Record `node` as its worker starts; return its new epoch."""
        asked = "draining" if node.draining else "cordoned" if node.cordoned else ""
        fields = {
            "address": node.address,
            "max_instances": str(node.max_instances),
            "gpus": encode_gpus(node.gpus),
            "labels": json.dumps(dict(node.labels)),
            "engine_version": node.engine_version,
        }
        said = (node.name, holder, LOST_AFTER_S, last_epoch, int(beating), asked)
        epoch = int(self._announce(*said, *flat(fields)))
        if epoch < 0:
            raise name_taken(node.name)
        return epoch

    @answering
    def heartbeat(self, name: str, epoch: int, report: NodeReport | None = None) -> Beat:
        """Say that the node lives; return what the store makes of it."""
        return Beat(self._heartbeat(name, epoch, 1, encode_report(report) if report else ""))

    @answering
    def report_orphans(self, name: str, epoch: int, orphans: Collection[Orphan]) -> None:
        """Say which engines run on the node that neither it nor the store knows."""
        self._orphans(name, epoch, encode_orphans(orphans))

    @answering
    def retire(self, name: str, epoch: int) -> None:
        """Take the node out of placement at once, as its worker stops."""
        self._heartbeat(name, epoch, 0, "")

    @answering
    def cordon(self, name: str, *, drain: bool = False) -> Node | None:
        """Have nothing new placed on the node; return it, or None if there is none."""
        self._cordon(name, "draining" if drain else "cordoned")
        return self._one_node(name)

    @answering
    def uncordon(self, name: str) -> Node | None:
        """Take back cordon and drain; return the node, or None if there is none."""
        self._cordon(name, "")
        return self._one_node(name)

    @answering
    def forget_node(self, name: str) -> bool:
        """Remove a node that is lost and holds no claim; return False if that is not so."""
        return bool(self._forget_node(name, LOST_AFTER_S))

    @answering
    def nodes(self, names: Collection[str] | None = None) -> list[Node]:
        """Return nodes with their claims, lost ones too, by name: all, or those of these names."""
        wanted = self._redis.smembers(self._keys.nodes) if names is None else names
        return self._read_nodes(wanted)

    @answering
    def node(self, name: str) -> Node | None:
        """Return one node with its claims; None if there is none, or it cannot be read."""
        return self._one_node(name)

    @answering
    def nodes_since(self, cursor: str) -> NodesSince:
        """Return the nodes that changed since `cursor`; costs what changed, not what there is."""
        now, since, changed, silent = self._nodes_since(cursor, LOST_AFTER_S)
        whole = not is_known(cursor, since, now)
        names = set(self._redis.smembers(self._keys.nodes) if whole else changed)
        names |= self._unreadable_nodes  # of one that is mended, nobody says so
        found: dict[str, Node | None] = dict.fromkeys(names)
        found |= {node.name: node for node in self._read_nodes(names)}
        ages = zip(silent[::2], map(float, silent[1::2]), strict=True)
        return NodesSince(cursor=now, whole=whole, found=found, lost=dict(ages))

    def node_changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield the names of nodes of which something changes, from now on."""
        return self._listen(self._keys.node_changes, timeout_s)

    def _one_node(self, name: str) -> Node | None:
        return next(iter(self._read_nodes([name])), None)

    def _read_nodes(self, names: Iterable[str]) -> list[Node]:
        names = sorted(names)
        if not names:
            return []
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self._keys.node(name))
            pipe.hgetall(self._keys.claims(name))
            pipe.zscore(self._keys.beats, name)
        pipe.time()
        *answers, (seconds, micros) = pipe.execute()
        now = seconds + micros / 1e6
        told = zip(names, answers[::3], answers[1::3], answers[2::3], strict=True)
        found = [self._decoded_node(*one, now) for one in told]
        return [node for node in found if node]

    def _decoded_node(
        self,
        name: str,
        stored: dict[str, str],
        claims: dict[str, str],
        beat: float | None,
        now: float,
    ) -> Node | None:
        """Return a node; None of one that cannot be read, which must not hide the others."""
        try:
            return _node(name, stored, claims, beat, now) if stored else None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if name not in self._unreadable_nodes:
                why = f"its record cannot be read ({error!r})"
                log.error("node %s: %s; it is left out", name, why)  # noqa: TRY400 - says all
            self._unreadable_nodes.add(name)
            return None


def _node(
    name: str, stored: dict[str, str], claims: dict[str, str], beat: float | None, now: float
) -> Node:
    gpus, report = _reported(stored["gpus"], stored.get("report", ""))
    node = Node(
        name=name,
        address=stored["address"],
        max_instances=int(stored["max_instances"]),
        gpus=gpus,
        loads=report.loads,
        models=report.models,
        labels=json.loads(stored.get("labels", "{}")),
        engine_version=stored.get("engine_version", ""),
        heartbeat_age_s=heartbeat_age(beat, now),
        orphans=decode_orphans(stored.get("orphans", "[]")),
        epoch=int(stored.get("epoch", 0)),
        cordoned="cordon" in stored,
        draining=stored.get("cordon") == "draining",
        claims=decode_claims(claims),
    )
    freed_at = stored.get("freed_at")
    return as_just_freed(node, None if freed_at is None else now - float(freed_at))


@lru_cache(maxsize=_REMEMBERED)
def _reported(gpus: str, report: str) -> tuple[tuple[Gpu, ...], NodeReport]:
    """Return a node's devices with what it last said of them, and all that it said."""
    announced = decode_gpus(gpus)
    if not report:
        return announced, NodeReport()
    told = decode_report(report)
    return told.told_of_gpus(announced), told
