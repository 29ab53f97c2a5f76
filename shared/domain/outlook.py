"""What can be expected of a model: whether requests can go to it, or how far a start of it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from shared.domain.instance import Instance, Status

_MOST_CHARS = 200  # of a reason, in a few words


class Standing(StrEnum):
    """How a model is, by the replica that is nearest to taking requests."""

    RUNNING = "running"
    LOADING = "loading"
    QUEUED = "queued"  # in line for a place: no node has room
    CRASHED = "crashed"  # its start failed; it is tried again by itself
    FAILED = "failed"  # and is not tried again
    IDLE = "idle"  # there is none


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a model is, and the replica that says so."""

    standing: Standing
    replica: Instance | None = None


def outlook(replicas: Iterable[Instance]) -> Outlook:
    """Return how a model with these replicas is; those that are to stop are none of it."""
    found = [(_standing(replica), replica) for replica in replicas if replica.desired == "running"]
    if not found:
        return Outlook(Standing.IDLE)
    return Outlook(*min(found, key=lambda one: (_ORDER[one[0]], one[1].created_at)))


def seconds_left(replica: Instance, now: float) -> float | None:
    """Return in how many seconds a loading replica is expected to be ready; None: nobody knows."""
    return None if replica.eta is None else max(0.0, replica.eta - now)


def progress_of(replica: Instance, now: float) -> float | None:
    """Return how much of its start is done, 0 to 1: by time where that is known, else of its stage.

    Args:
        replica: that loads.
        now: epoch seconds.
    """
    if replica.eta is None or replica.started_at is None or replica.eta <= replica.started_at:
        return replica.progress
    done = (now - replica.started_at) / (replica.eta - replica.started_at)
    return min(0.99, max(0.0, done))  # it is not ready before it says so


def how_far(found: Outlook, now: float) -> str:
    """Return how far a start is, in a few words: `loading 42 %, ETA 12 s`."""
    replica = found.replica
    if replica is None:
        return "starting"
    if replica.status is Status.UNHEALTHY:
        return "not answering, about to be started again"
    why = f": {_one_line(replica.reason)}" if replica.reason else ""
    if found.standing is Standing.QUEUED:
        return f"in line for a place{why}"
    if replica.status is Status.PENDING:
        return f"starting on {replica.node}{why}"
    done, left = progress_of(replica, now), seconds_left(replica, now)
    percent = "" if done is None else f" {done * 100:.0f} %"
    stage = f", stage {replica.stage}" if replica.stage else ""
    eta = "" if left is None else f", ETA {left:.0f} s"
    return f"loading{percent}{stage}{eta}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MOST_CHARS]


def _standing(replica: Instance) -> Standing:
    if replica.serving:
        return Standing.RUNNING
    if replica.status is Status.PENDING and not replica.node:
        return Standing.QUEUED
    return _STANDING.get(replica.status, Standing.FAILED)


_STANDING = {
    Status.PENDING: Standing.LOADING,
    Status.STARTING: Standing.LOADING,
    Status.UNHEALTHY: Standing.LOADING,  # it recovers, or is started again
    Status.BACKOFF: Standing.CRASHED,
}
_ORDER = {standing: place for place, standing in enumerate(Standing)}
