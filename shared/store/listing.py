"""What the store says of many records at once, without reading all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from shared.domain.instance import Instance, Status
from shared.errors import InvalidRequest

MOST_CHANGED = 16_384  # instances (and nodes) whose last change is remembered, newest kept
MOST_EXAMINED = 1_000  # records that are looked at for one page, whatever its limit is
SWEPT_AT_ONCE = (
    100  # idle instances in one script: some milliseconds, in which Redis answers nobody
)
READ_AT_ONCE = 500  # records in one round trip: Redis answers others between two of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """What changed since a cursor."""

    cursor: str  # where the next question goes on
    whole: bool  # the old cursor said nothing (any more): `found` is all that are not ended
    # As they are now. None: there is no such record any more; one that cannot be read is left out.
    found: Mapping[str, Instance | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which instances a list is to have; None: whichever."""

    node: str | None = None
    model: str | None = None  # model_name, or the catalogue's name
    status: str | None = None  # as callers see it: `Instance.shown_status`
    with_ended: bool = False  # those too that ended in the last day; asked for by `stopped` as well

    @property
    def lists_ended(self) -> bool:
        """Whether the list is to have instances that ended."""
        return self.with_ended or self.status == Status.STOPPED

    def lists(self, record: Instance) -> bool:
        """Return whether the list is to have `record`."""
        return (
            self.node in (None, record.node)
            and self.model in (None, record.model_name, record.catalogue or record.model_name)
            and self.status in (None, record.shown_status)
            and (self.lists_ended or not record.ended)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a list, oldest first."""

    records: tuple[Instance, ...]
    after: str  # what to ask for to see the next one; '' where there is none


class Listing(Protocol):
    """Answers about many records: the part of the `Store` promise whose cost must stay flat."""

    def several(self, instance_ids: Collection[str]) -> dict[str, Instance | None]:
        """Return these records; None stands for those that there are not (any more).

        Those that cannot be read are left out.
        """

    def instances_since(self, cursor: str) -> Since:
        """Return what has changed since `cursor` was given out; '' for all that are not ended.

        Costs what has changed. A cursor from before the last MOST_CHANGED changes, or from before
        the store was emptied, says nothing any more: then all are read. It does not tell that the
        store has gone back to an older copy of itself; listeners see that by a broken connection.
        """

    def page(self, query: Query, *, after: str = "", limit: int = 100) -> Page:
        """Return the next `limit` instances of a list, oldest first.

        Looks at MOST_EXAMINED records at most, so a page may have fewer than `limit`, even none,
        although more follow.

        Args:
            query: which instances.
            after: the `after` of the page before, or any instance id; '' for the first page.
            limit: at most; at least 1.

        Raises:
            InvalidRequest: there is no instance `after` (any more).
        """

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take what is called `name`, or go on having it; return whether `holder` has it now.

        One holder has it at a time, for `seconds` from its last call; by the store's clock.
        """

    def end_lease(self, name: str, holder: str) -> None:
        """Let go of `name` at once; nothing changes where another has it."""


def no_such_place(after: str) -> InvalidRequest:
    """Return the error for a page behind an instance that is gone."""
    return InvalidRequest(
        f"after: there is no instance {after} (any more); ask again without it for the first page",
        field="after",
    )
