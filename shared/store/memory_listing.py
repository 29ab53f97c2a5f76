"""Answers about many records, in this process's memory."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable

from shared.store import KEEP_ENDED_S
from shared.store.listing import MOST_CHANGED, Page, Query, Since, no_such_place
from shared.store.memory_records import MemoryRecords


class MemoryListing(MemoryRecords):
    """Keeps the `Listing` promise for the threads of one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._stamp = 0
        self._marks: dict[str, OrderedDict[str, int]] = defaultdict(OrderedDict)
        self._forgotten: dict[str, int] = defaultdict(int)  # the last stamp that is in no `_marks`
        self._leases: dict[str, tuple[str, float]] = {}

    def instances_since(self, cursor: str) -> Since:
        """Return what has changed since `cursor` was given out; '' for all that are not ended."""
        with self._lock:
            now, changed = self._changed_since("instances", cursor)
            if changed is None:
                self._forget_old()
                whole = {r.instance_id: r for r in self._readable() if not r.ended}
                return Since(cursor=now, whole=True, found=whole)
            return Since(cursor=now, whole=False, found=self.several(changed))

    def page(self, query: Query, *, after: str = "", limit: int = 100) -> Page:
        """Return the next `limit` instances of a list, oldest first."""
        with self._lock:
            self._forget_old()
            last = self._instances.get(after)
            if after and last is None:
                raise no_such_place(after)
            place = (last.created_at, last.instance_id) if last else (0.0, "")
            recent = self._clock() - KEEP_ENDED_S
            rest = sorted(
                (r.created_at, r.instance_id)
                for r in self._readable()
                if query.lists(r)
                and (r.created_at, r.instance_id) > place
                and (not r.ended or (r.ended_at or 0.0) > recent)
            )
            names = [name for _, name in rest[:limit]]
            return Page(
                records=tuple(self._instances[name] for name in names),
                after=names[-1] if len(rest) > limit else "",
            )

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take what is called `name`, or go on having it; return whether `holder` has it now."""
        with self._lock:
            held, until = self._leases.get(name, (holder, 0.0))
            if held != holder and self._clock() < until:
                return False
            self._leases[name] = holder, self._clock() + seconds
            return True

    def end_lease(self, name: str, holder: str) -> None:
        """Let go of `name` at once; nothing changes where another has it."""
        with self._lock:
            if self._leases.get(name, ("", 0.0))[0] == holder:
                del self._leases[name]

    def _mark(self, kind: str, name: str) -> None:
        """Remember that `name` of `kind` changed."""
        self._stamp += 1
        changed = self._marks[kind]
        changed[name] = self._stamp
        changed.move_to_end(name)
        if len(changed) > MOST_CHANGED:
            _, self._forgotten[kind] = changed.popitem(last=False)

    def _changed_since(self, kind: str, cursor: str) -> tuple[str, list[str] | None]:
        """Return a new cursor, and what changed since `cursor`; None: it says nothing."""
        changed = self._marks[kind]
        now = str(self._stamp)
        if not cursor or int(cursor) < self._forgotten[kind]:
            return now, None
        return now, [name for name, stamp in changed.items() if stamp > int(cursor)]
