"""The events of one instance, as one caller is shown them up to the end."""

from __future__ import annotations

import pytest

from shared.domain.instance import Instance, Status
from shared.errors import NotFound
from shared.store import Change, Event
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance
from web.control.events import FollowedEvents

NAME = "tiny-aaaaaaaa"


class EndingStore(MemoryStore):
    """A store whose one instance ends between the reading of its events and of its record."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = self.announce(a_node(), "worker")
        self.create(an_instance(), 3)
        self.reads = 0

    def get(self, instance_id: str) -> Instance | None:
        """Return the record, just ended."""
        for status in (Status.STOPPING, Status.STOPPED):
            self.apply(
                Change(instance_id=NAME, node="one", epoch=self.epoch, generation=1, status=status)
            )
        return super().get(instance_id)

    def events_after(self, instance_id: str, after: str, *, wait_s: float) -> list[Event]:
        """Count how often it is asked."""
        self.reads += 1
        return super().events_after(instance_id, after, wait_s=wait_s)


def test_what_was_read_at_the_end_is_shown() -> None:
    store = EndingStore()
    followed = FollowedEvents(store, NAME, "")
    assert b'"status": "pending"' in followed.more(0.0)
    assert b'"status": "stopped"' in followed.more(0.0)
    assert (store.reads, followed.over) == (3, False)
    assert (followed.more(0.0), followed.over) == (b"", True)


def test_a_record_that_is_lost_is_not_the_end() -> None:
    followed = FollowedEvents(MemoryStore(), NAME, "")
    with pytest.raises(NotFound, match="no instance tiny-aaaaaaaa"):
        followed.more(0.0)
    assert not followed.over
