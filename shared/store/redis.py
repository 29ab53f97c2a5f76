"""The store on Redis 6.2 or newer, or Valkey."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Generator

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.domain.instance import Instance, may_precede
from shared.domain.node import LOST_AFTER_S, Claim, Node, Orphan, heartbeat_age
from shared.errors import RecordUnreadable
from shared.store import (
    KEEP_ENDED_S,
    Beat,
    Change,
    Once,
    idle_scripts,
    instance_scripts,
    name_taken,
    node_scripts,
)
from shared.store.codec import (
    decode_gpus,
    decode_instance,
    decode_orphans,
    encode,
    encode_gpus,
    encode_instance,
    encode_orphans,
)
from shared.store.history import KEEP_ONCE_S
from shared.store.keys import Keys
from shared.store.redis_client import answering, flat
from shared.store.redis_history import RedisHistory, digest
from shared.store.redis_keys import RedisApiKeys

log = logging.getLogger(__name__)

SOCKET_TIMEOUT_S = 2.0  # a frozen Redis must not freeze us: without it a command waits for ever


def connect(url: str) -> redis.Redis:
    """Return a client of the server at `url`; connects at its first command, never retries."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # of one damaged text; strict ends the reading of all others
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),
    )


class RedisStore(RedisHistory, RedisApiKeys):
    """Keeps the `Store` promise; safe to share between threads."""

    def __init__(self, client: redis.Redis, keys: Keys | None = None) -> None:
        super().__init__(client, keys or Keys())
        self._unreadable: dict[str, str] = {}  # what this process came across: id → why
        self._unreadable_nodes: set[str] = set()
        self._announce = self._script(node_scripts.ANNOUNCE)
        self._heartbeat = self._script(node_scripts.HEARTBEAT)
        self._create = self._script(instance_scripts.CREATE)
        self._stop = self._script(instance_scripts.STOP)
        self._apply = self._script(instance_scripts.APPLY)
        self._restore = self._script(node_scripts.RESTORE)
        self._orphans = self._script(node_scripts.ORPHANS)
        self._touch = self._script(idle_scripts.TOUCH)
        self._stop_idle = self._script(idle_scripts.STOP_IDLE)

    @answering
    def ping(self) -> None:
        """Return if the store answers."""
        self._redis.ping()

    @answering
    def now(self) -> float:
        """Return the store's time in epoch seconds."""
        return self._now()

    @answering
    def announce(
        self, node: Node, holder: str, *, last_epoch: int = 0, beating: bool = True
    ) -> int:
        """Record `node` as its worker starts; return its new epoch."""
        fields = {
            "address": node.address,
            "max_instances": str(node.max_instances),
            "gpus": encode_gpus(node.gpus),
        }
        said = (node.name, holder, LOST_AFTER_S, last_epoch, int(beating))
        epoch = int(self._announce(*said, *flat(fields)))
        if epoch < 0:
            raise name_taken(node.name)
        return epoch

    @answering
    def heartbeat(self, name: str, epoch: int) -> Beat:
        """Say that the node lives; return what the store makes of it."""
        return Beat(self._heartbeat(name, epoch, 1))

    @answering
    def report_orphans(self, name: str, epoch: int, orphans: Collection[Orphan]) -> None:
        """Say which engines run on the node that neither it nor the store knows."""
        self._orphans(name, epoch, encode_orphans(orphans))

    @answering
    def retire(self, name: str, epoch: int) -> None:
        """Take the node out of placement at once, as its worker stops."""
        self._heartbeat(name, epoch, 0)

    @answering
    def nodes(self) -> list[Node]:
        """Return all nodes with their claims, lost ones too, by name."""
        return self._read_nodes(sorted(self._redis.smembers(self._keys.nodes)))

    @answering
    def node(self, name: str) -> Node | None:
        """Return one node with its claims; None if there is none, or it cannot be read."""
        return next(iter(self._read_nodes([name])), None)

    def _read_nodes(self, names: list[str]) -> list[Node]:
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self._keys.node(name))
            pipe.hgetall(self._keys.claims(name))
        pipe.time()
        *answers, (seconds, micros) = pipe.execute()
        now = seconds + micros / 1e6
        pairs = zip(names, answers[::2], answers[1::2], strict=True)
        found = [self._decoded_node(*pair, now) for pair in pairs]
        return [node for node in found if node]

    @answering
    def create(
        self, instance: Instance, max_instances: int, *, who: str = "", once: Once | None = None
    ) -> bool:
        """Record a new instance and claim its placement, in one step."""
        return bool(
            self._create(
                instance.instance_id,
                instance.node,
                max_instances,
                json.dumps(instance.gpus),
                f"created, placed on {instance.node}",
                who,
                digest(once.name) if once else "",
                once.fingerprint if once else "",
                KEEP_ONCE_S,
                *flat(encode_instance(instance)),
            )
        )

    @answering
    def get(self, instance_id: str) -> Instance | None:
        """Return the record, or None if there is none (any more)."""
        record = self._read([instance_id])[0]
        if isinstance(record, RecordUnreadable):
            raise record
        return record

    @answering
    def unreadable(self) -> list[RecordUnreadable]:
        """Return which records this process came across that cannot be read, if they still cannot.

        Each is logged once.
        """
        self._redis.ping()  # where there is nothing to read, too, it says whether it is there
        found = self._read(sorted(self._unreadable))
        return [record for record in found if isinstance(record, RecordUnreadable)]

    @answering
    def instances(self, *, with_ended: bool = False) -> list[Instance]:
        """Return all that are not ended, oldest first; and those that ended in the last day."""
        indexes = [self._keys.instances, *([self._keys.ended] if with_ended else [])]
        found: list[Instance] = []
        for index in indexes:
            found += self._read_indexed(self._redis.zrange(index, 0, -1), self._redis.zrem, index)
        return sorted(found, key=lambda record: record.created_at)

    @answering
    def placed_on(self, node: str) -> list[Instance]:
        """Return the node's instances that its worker has to look after."""
        ids = sorted(self._redis.smembers(self._keys.placed(node)))
        return self._read_indexed(ids, self._redis.srem, self._keys.placed(node))

    @answering
    def stop(self, instance_id: str, *, reason: str, by: str, who: str = "") -> Instance | None:
        """Set `desired` to stopped; return the record, or None if there is none."""
        if self.get(instance_id) is None:  # one that cannot be read is not changed
            return None
        self._stop(instance_id, reason, by, who)
        return self.get(instance_id)

    @answering
    def apply(self, change: Change) -> bool:
        """Write `change` and what follows from it, in one step; return False if it did not hold."""
        removed = [name for name, value in change.fields.items() if value is None]
        return bool(
            self._apply(
                change.instance_id,
                change.node,
                change.epoch,
                change.generation,
                change.status,
                json.dumps(sorted(may_precede(change.status))),
                change.by,
                change.who or change.node,
                KEEP_ENDED_S,
                change.keep_s,
                json.dumps(removed),
                *flat(encode(change.fields)),
            )
        )

    @answering
    def restore(self, kept: Instance, *, epoch: int, over: int | None, reason: str) -> bool:
        """Write a record whole, as its node has kept it, with its claim and its indexes."""
        return bool(
            self._restore(
                kept.instance_id,
                kept.node,
                epoch,
                "" if over is None else over,
                json.dumps(kept.gpus),
                KEEP_ENDED_S,
                reason,
                *flat(encode_instance(kept)),
            )
        )

    @answering
    def touch(self, under_way: Collection[str], *, ended: Collection[str] = ()) -> None:
        """Say which instances are in use now, or were since this was said last."""
        only_ended = set(ended).difference(under_way)
        if under_way or only_ended:
            self._touch(len(under_way), *under_way, *only_ended)

    @answering
    def stop_idle(self, *, node: str | None = None, hold_s: float = 0.0) -> list[Instance]:
        """Set `desired` to stopped for all that are due, of `node` or of all; return those."""
        stopped = self._stop_idle(node or "", node or "beat", hold_s)
        return _read_well(self._read(stopped))

    @answering
    def swept_ago_s(self) -> float | None:
        """Return how many seconds ago all of the fleet was swept by `stop_idle`; None if never."""
        at = self._redis.get(self._keys.swept_at)
        return None if at is None else max(0.0, self._now() - float(at))

    def changes(self, timeout_s: float) -> Generator[str | None]:
        """Yield the id of each instance whose record changes, from now on."""
        return self._listen(self._keys.changes, timeout_s)

    def _read(self, instance_ids: Collection[str]) -> list[Instance | RecordUnreadable | None]:
        pipe = self._redis.pipeline(transaction=False)
        for instance_id in instance_ids:
            pipe.hgetall(self._keys.instance(instance_id))
        pairs = zip(instance_ids, pipe.execute(), strict=True)
        return [self._decoded(instance_id, stored) for instance_id, stored in pairs]

    def _decoded(
        self, instance_id: str, stored: dict[str, str]
    ) -> Instance | RecordUnreadable | None:
        try:
            record = decode_instance(stored) if stored else None
        except ValueError as error:
            key = self._keys.instance(instance_id)
            unreadable = RecordUnreadable(instance_id, why=str(error), key=key)
            if self._unreadable.get(instance_id) != unreadable.why:
                log.error("%s", unreadable)  # noqa: TRY400 - says all there is
            self._unreadable[instance_id] = unreadable.why
            return unreadable
        self._unreadable.pop(instance_id, None)
        return record

    def _decoded_node(
        self, name: str, stored: dict[str, str], claims: dict[str, str], now: float
    ) -> Node | None:
        """Return a node; None of one that cannot be read, which must not hide the others."""
        try:
            return _node(name, stored, claims, now) if stored else None
        except (KeyError, TypeError, ValueError) as error:
            if name not in self._unreadable_nodes:
                why = f"its record cannot be read ({error!r})"
                log.error("node %s: %s; it is left out", name, why)  # noqa: TRY400 - says all
            self._unreadable_nodes.add(name)
            return None

    def _read_indexed(
        self, instance_ids: list[str], remove: Callable[..., object], index: str
    ) -> list[Instance]:
        """Read what an index lists; what has expired since is removed from it."""
        records = self._read(instance_ids)
        pairs = zip(instance_ids, records, strict=True)
        if expired := [instance_id for instance_id, record in pairs if record is None]:
            remove(index, *expired)
        return _read_well(records)


def _read_well(found: Collection[Instance | RecordUnreadable | None]) -> list[Instance]:
    return [record for record in found if isinstance(record, Instance)]


def _node(name: str, stored: dict[str, str], claims: dict[str, str], now: float) -> Node:
    beat = stored.get("heartbeat_at")
    return Node(
        name=name,
        address=stored["address"],
        max_instances=int(stored["max_instances"]),
        gpus=decode_gpus(stored["gpus"]),
        heartbeat_age_s=heartbeat_age(None if beat is None else float(beat), now),
        orphans=decode_orphans(stored.get("orphans", "[]")),
        epoch=int(stored.get("epoch", 0)),
        claims=tuple(
            Claim(instance_id=instance_id, gpus=tuple(json.loads(gpus)))
            for instance_id, gpus in sorted(claims.items())
        ),
    )
