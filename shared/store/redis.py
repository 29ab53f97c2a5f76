"""The store on Redis 6.2 or newer, or Valkey."""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterator

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.domain.instance import Instance, may_precede
from shared.store import (
    KEEP_ENDED_S,
    Change,
    Once,
    Room,
    how_created,
    idle_scripts,
    instance_scripts,
    node_scripts,
)
from shared.store.codec import encode, encode_instance
from shared.store.history import KEEP_ONCE_S
from shared.store.keys import Keys
from shared.store.listing import READ_AT_ONCE, SWEPT_AT_ONCE
from shared.store.redis_client import answering, flat
from shared.store.redis_demand import RedisDemands
from shared.store.redis_history import RedisHistory, digest
from shared.store.redis_keys import RedisApiKeys
from shared.store.redis_line import RedisLine, encode_room
from shared.store.redis_nodes import RedisNodes
from shared.store.redis_placed import RedisPlaced
from shared.store.redis_records import read_well

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


class RedisStore(RedisHistory, RedisNodes, RedisPlaced, RedisLine, RedisDemands, RedisApiKeys):
    """Keeps the `Store` promise; safe to share between threads."""

    def __init__(self, client: redis.Redis, keys: Keys | None = None) -> None:
        super().__init__(client, keys or Keys())
        self._create = self._script(instance_scripts.CREATE)
        self._stop = self._script(instance_scripts.STOP)
        self._apply = self._script(instance_scripts.APPLY)
        self._restore = self._script(node_scripts.RESTORE)
        self._touch = self._script(idle_scripts.TOUCH)
        self._retime = self._script(idle_scripts.RETIME)
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
    def create(
        self,
        instance: Instance,
        max_instances: int,
        *,
        who: str = "",
        once: Once | None = None,
        room: Room | None = None,
    ) -> bool:
        """Record a new instance and claim its placement, or have it wait, in one step."""
        return bool(
            self._create(
                instance.instance_id,
                instance.node,
                max_instances,
                json.dumps(dict(room.placement.shares) if room else instance.shares),
                how_created(instance, room),
                who,
                digest(once.name) if once else "",
                once.fingerprint if once else "",
                KEEP_ONCE_S,
                instance.wanted.priority,
                encode_room(room),
                *flat(encode_instance(instance)),
            )
        )

    @answering
    def instances(self, *, with_ended: bool = False) -> list[Instance]:
        """Return all that are not ended, oldest first; and those that ended in the last day."""
        indexes = [self._keys.instances, *([self._keys.ended] if with_ended else [])]
        listed = [name for index in indexes for name in self._redis.zrange(index, 0, -1)]
        return sorted(self._read_listed(listed), key=lambda record: record.created_at)

    @answering
    def stop(self, instance_id: str, *, reason: str, by: str, who: str = "") -> Instance | None:
        """Set `desired` to stopped; return the record, or None if there is none."""
        if self.get(instance_id) is None:  # one that cannot be read is not changed
            return None
        told = iter(self._stop(instance_id, reason, by, who, KEEP_ENDED_S))
        return self._readable(instance_id, dict(zip(told, told, strict=True)))

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
                json.dumps(kept.shares),
                KEEP_ENDED_S,
                reason,
                *flat(encode_instance(kept)),
            )
        )

    @answering
    def touch(self, under_way: Collection[str], *, ended: Collection[str] = ()) -> None:
        """Say which instances are in use now, or were since this was said last."""
        only_ended = set(ended).difference(under_way)
        for some in _batches(under_way):
            self._touch(len(some), *some)
        for some in _batches(only_ended):
            self._touch(0, *some)

    @answering
    def retime(self, instance_id: str, timeout: int, *, who: str) -> None:
        """Have an instance that is to run stop after so many idle seconds; 0: never."""
        self._retime(instance_id, timeout, who)

    @answering
    def stop_idle(self, *, node: str | None = None, hold_s: float = 0.0) -> list[Instance]:
        """Set `desired` to stopped for all that are due, of `node` or of all; return those."""
        stopped: list[str] = []
        due, running, passed_over = "", "", 0
        while True:
            asked = (node or "", node or "beat", hold_s, passed_over, SWEPT_AT_ONCE, due, running)
            due, running, looked_at, left, some = self._stop_idle(*asked)
            stopped += some
            passed_over += left
            if node or looked_at < SWEPT_AT_ONCE:
                return read_well(self._read(stopped))

    @answering
    def swept_ago_s(self) -> float | None:
        """Return how many seconds ago all of the fleet was swept by `stop_idle`; None if never."""
        at = self._redis.get(self._keys.swept_at)
        return None if at is None else max(0.0, self._now() - float(at))

    def changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield the ids of instances whose records change, from now on."""
        return self._listen(self._keys.changes, timeout_s)


def _batches(ids: Collection[str]) -> Iterator[list[str]]:
    listed = list(ids)
    for begin in range(0, len(listed), READ_AT_ONCE):
        yield listed[begin : begin + READ_AT_ONCE]
