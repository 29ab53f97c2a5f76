"""Whether a record that the store has lost or set back is written back, and as what.

A node keeps each of its records beside the engine (`workers.manifest`), because Redis may be
emptied, or restored from an older copy, while engines run. Of two copies the one with more changes
behind it is the newer: each change of status or desire raises `revision`, each spawn raises `run`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared.domain.instance import RELEASED, WITHDRAWABLE, Desired, Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A record as it is to be written back, and why, for its event."""

    record: Instance
    reason: str


def rebuilt(
    kept: Instance, found: Instance | None, *, now: float, keep_ended_s: float
) -> Rebuilt | None:
    """Return what to write in place of `found`; None if `found` is to stay as it is.

    Pure. A user's stop in the older copy holds nevertheless: nobody ever takes one back, so it was
    asked before the copy was made, or since it came back.

    Args:
        kept: the record as its node has kept it.
        found: what the store holds; None for nothing.
        now: epoch seconds, by the store's clock.
        keep_ended_s: for how long the store keeps a record after its end.
    """
    if found is None:
        over = kept.ended or (
            kept.status in RELEASED and now - (kept.ended_at or 0.0) > keep_ended_s
        )
        lost = f"the store had lost this record; {kept.node} has written back what it had kept"
        return None if over else Rebuilt(record=kept, reason=lost)
    if not is_behind(found, kept):
        return None
    record = replace(kept, generation=max(kept.generation, found.generation))
    if _asked_to_stop(found) and not kept.ended and not _asked_to_stop(kept):
        record = replace(
            record,
            desired=Desired.STOPPED,
            stop_reason=found.stop_reason,
            stop_by=found.stop_by,
            generation=record.generation + 1,
        )
    older = f"the store had an older copy of this record ({_summary(found)}); "
    newer = f"{kept.node} has written its own over it ({_summary(kept)})"
    return Rebuilt(record=record, reason=older + newer)


def is_behind(found: Instance, kept: Instance) -> bool:
    """Return whether the store's copy of a record is older than its node's."""
    return found.revision < kept.revision or found.run < kept.run


def _asked_to_stop(record: Instance) -> bool:
    return record.desired is Desired.STOPPED and record.stop_by not in WITHDRAWABLE


def _summary(record: Instance) -> str:
    return f"{record.status}, generation {record.generation}, run {record.run}"
