"""Who waits in line, remembered: a store that is emptied forgets them, and no node has them.

Of instances that run, their nodes write lost records anew; those that wait are only known here, to
the routing table of each web process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from shared.domain.instance import Desired, Instance
from shared.store import Store

log = logging.getLogger(__name__)


def with_rejoined(
    store: Store, known: Mapping[str, Instance], found: Mapping[str, Instance | None]
) -> dict[str, Instance | None]:
    """Return `found` once those who waited, and whose records are lost, are in line again.

    In line as they were: if one is lost then all that are known to wait are looked for, each
    process goes by the same order, and who is there already stays. One that was deleted is no lost
    one: its record is kept for a day.

    Args:
        store: has the line.
        known: instances as they were, by id.
        found: as the store has them now; None is one that it does not have.

    Raises:
        StoreUnavailable: some may have joined; the others do by the next call.
    """
    if not any(record is None and _waits(known.get(name)) for name, record in found.items()):
        return dict(found)
    waiting = [one for one in list(known.values()) if _waits(one)]  # requests add to it meanwhile
    waiting.sort(key=lambda one: (-one.wanted.priority, one.created_at))
    names = [one.instance_id for one in waiting]
    lost = {name for name, record in store.several(names).items() if record is None}
    again = [
        one.instance_id
        for one in waiting
        if one.instance_id in lost and store.rejoin(one, who="web")
    ]
    if again:
        log.warning("Redis has lost who waits in line; in line again: %s", ", ".join(again))
    return {**found, **store.several(names)}


def _waits(one: Instance | None) -> bool:
    return one is not None and one.waiting and one.desired is Desired.RUNNING
