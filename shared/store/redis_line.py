"""The line of instances that wait for a place, on Redis."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import redis

from shared.domain.instance import Instance
from shared.domain.placement import Placement
from shared.store.codec import encode_instance
from shared.store.keys import Keys
from shared.store.line import Room
from shared.store.line_scripts import GIVE_UP_ROOM, MAKE_ROOM, PLACE, REJOIN
from shared.store.redis_client import answering, flat
from shared.store.redis_listing import RedisListing
from shared.store.redis_records import read_well


class RedisLine(RedisListing):
    """Keeps the `Line` promise."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self._place_waiting = self._script(PLACE)
        self._make_room = self._script(MAKE_ROOM)
        self._give_up_room = self._script(GIVE_UP_ROOM)
        self._rejoin = self._script(REJOIN)

    @answering
    def waiting(self, limit: int) -> list[Instance]:
        """Return the first `limit` instances of the line, in line."""
        found: list[Instance] = []
        looked_at = 0
        while len(found) < limit:
            names = self._redis.zrange(self._keys.line, looked_at, looked_at + limit - 1)
            records = self._read(names)
            found += [record for record in read_well(records) if record.waiting]
            looked_at += len(names) - self._unlist_gone(names, records)
            if len(names) < limit:
                break
        return found[:limit]

    @answering
    def line_length(self) -> int:
        """Return how many wait in line."""
        return int(self._redis.zcard(self._keys.line))

    @answering
    def position(self, instance_id: str) -> int | None:
        """Return how many an instance is in the line, from 1; None if it does not wait."""
        rank = self._redis.zrank(self._keys.line, instance_id)
        return None if rank is None else int(rank) + 1

    @answering
    def ahead_of_new(self, priority: int) -> int:
        """Return how many wait that come before a new instance of that priority."""
        return int(self._redis.zcount(self._keys.line, "-inf", f"({(1 - priority) * 2**42}"))

    @answering
    def place(
        self, instance_id: str, placement: Placement, max_instances: int, *, who: str
    ) -> bool:
        """Give a waiting instance its place, and claim that, in one step."""
        gpus, shares = json.dumps(placement.gpus), json.dumps(dict(placement.shares))
        return bool(
            self._place_waiting(instance_id, placement.node, max_instances, shares, gpus, who)
        )

    @answering
    def make_room(self, instance_id: str, room: Room, *, who: str) -> bool:
        """Reserve a place for a waiting instance and ask who is in it to stop, in one step."""
        return bool(
            self._make_room(
                instance_id,
                room.max_instances,
                json.dumps(dict(room.placement.shares)),
                json.dumps(asdict(room.placement)),
                encode_room(room),
                who,
                room.reason,
            )
        )

    @answering
    def give_up_room(self, instance_id: str) -> bool:
        """Give back what is reserved for a waiting instance; return False if nothing is."""
        return bool(self._give_up_room(instance_id))

    @answering
    def rejoin(self, waiting: Instance, *, who: str) -> bool:
        """Have an instance wait again of which the store has lost the record, behind who waits."""
        fields = flat(encode_instance(replace(waiting, reserved=None)))
        return bool(self._rejoin(waiting.instance_id, waiting.wanted.priority, who, *fields))

    @answering
    def soonest_due(self, limit: int) -> list[Instance]:
        """Return the running instances that nobody uses and that expire next; not the pinned."""
        names = self._redis.zrange(self._keys.expiry, 0, limit - 1)
        return read_well(self._read(names))


def encode_room(room: Room | None) -> str:
    """Return what scripts need of a room; '' for none."""
    if room is None:
        return ""
    told = {
        "node": room.placement.node,
        "victims": room.victims,
        "quiet_s": room.quiet_s,
        "min_ready_s": room.min_ready_s,
    }
    return json.dumps(told)
