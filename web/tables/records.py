"""Records as requests ask for them by id."""

from __future__ import annotations

from shared.domain.instance import Instance
from shared.errors import NotFound
from shared.store import Store


def known(store: Store, instance_id: str) -> Instance:
    """Return the record.

    Raises:
        NotFound: there is none.
        RecordUnreadable: there is one that cannot be read.
        StoreUnavailable: to be tried again.
    """
    record = store.get(instance_id)
    if record is None:
        raise absent(instance_id)
    return record


def absent(instance_id: str) -> NotFound:
    """Return the error for an instance that there is not, or not any more."""
    return NotFound(f"no instance {instance_id}")
