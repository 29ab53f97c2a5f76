"""Records of instances as they are read, in this process's memory."""

from __future__ import annotations

from collections.abc import Callable, Collection

from shared.domain.instance import Instance
from shared.errors import RecordUnreadable
from shared.store.memory_history import MemoryHistory


class MemoryRecords(MemoryHistory):
    """Reads records; some may be such as cannot be read, so that it is seen what becomes of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._damaged: set[str] = set()

    def get(self, instance_id: str) -> Instance | None:
        """Return the record, or None if there is none (any more)."""
        with self._lock:
            self._forget_old()
            return self._read(instance_id)

    def several(self, instance_ids: Collection[str]) -> dict[str, Instance | None]:
        """Return these records; None stands for those that there are not (any more)."""
        with self._lock:
            self._forget_old()
            wanted = [name for name in instance_ids if not self._is_damaged(name)]
            return {name: self._instances.get(name) for name in wanted}

    def unreadable(self) -> list[RecordUnreadable]:
        """Return which records this process came across that cannot be read."""
        with self._lock:
            return [_unreadable(name) for name in sorted(self._damaged & self._instances.keys())]

    def damage(self, *instance_ids: str) -> None:
        """Have these records, and no others, be such as cannot be read: they are in Redis."""
        with self._lock:
            self._damaged = set(instance_ids)

    def _read(self, instance_id: str) -> Instance | None:
        if self._is_damaged(instance_id):
            raise _unreadable(instance_id)
        return self._instances.get(instance_id)

    def _readable(self) -> list[Instance]:
        return [one for name, one in self._instances.items() if name not in self._damaged]

    def _is_damaged(self, instance_id: str) -> bool:
        return instance_id in self._damaged and instance_id in self._instances

    def _forget_old(self) -> None:
        raise NotImplementedError


def _unreadable(instance_id: str) -> RecordUnreadable:
    return RecordUnreadable(instance_id, why="damaged", key=instance_id)
