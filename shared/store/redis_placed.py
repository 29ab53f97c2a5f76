"""What a node's worker has to look after, on Redis."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from shared.domain.instance import Instance
from shared.errors import RecordUnreadable
from shared.store import Placed
from shared.store.redis_client import answering
from shared.store.redis_records import RedisRecords


class RedisPlaced(RedisRecords):
    """Reads the records of one node, again and again: whole only those that have changed."""

    @answering
    def placed_on(self, node: str) -> list[Instance]:
        """Return the node's instances that its worker has to look after."""
        return list(self.placed_since(node, None).records)

    @answering
    def placed_since(self, node: str, last: Placed | None) -> Placed:
        """Return them as `placed_on` does, cheaply where nothing but their use has changed."""
        known = {} if last is None else {one.instance_id: one for one in last.records}
        stamps = {} if last is None else last.stamps
        pipe = self._redis.pipeline(transaction=False)
        pipe.smembers(self._keys.placed(node))
        if stamps:
            pipe.zmscore(self._keys.changed("instances"), list(stamps))
        for name in stamps:
            pipe.hget(self._keys.instance(name), "last_active")
        ids, *told = pipe.execute()
        now = dict(zip(stamps, told[0] if stamps else (), strict=True))
        used_at = dict(zip(stamps, told[1:], strict=True))
        found = {
            name: used
            for name, record in known.items()
            if name in ids
            and now[name] == stamps[name]
            and (used := _as_used(record, used_at[name])) is not None
        }
        others = sorted(ids - found.keys())
        seen = {**{name: stamps[name] for name in found}, **self._stamps(others)}
        records = dict(zip(others, self._read(others), strict=True))
        if expired := [name for name, record in records.items() if record is None]:
            self._redis.srem(self._keys.placed(node), *expired)
        found |= {name: record for name, record in records.items() if _is_read(record)}
        ordered = tuple(found[name] for name in sorted(found))
        return Placed(records=ordered, stamps={name: seen[name] for name in found})

    def _stamps(self, instance_ids: Collection[str]) -> Mapping[str, float | None]:
        """Return when each changed last; to be asked before they are read: it may grow old."""
        if not instance_ids:
            return {}
        stamps = self._redis.zmscore(self._keys.changed("instances"), instance_ids)
        return dict(zip(instance_ids, stamps, strict=True))


def _is_read(record: Instance | RecordUnreadable | None) -> bool:
    return isinstance(record, Instance)


def _as_used(record: Instance, used_at: str | None) -> Instance | None:
    """Return the record with when it was last used; None if that cannot be read."""
    try:
        at = None if used_at is None else float(used_at)
    except ValueError:
        return None
    return record if at == record.last_active else replace(record, last_active=at)
