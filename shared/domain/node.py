"""A machine that runs one Celery worker, and its GPUs."""

from __future__ import annotations

from dataclasses import dataclass

LOST_AFTER_S = 15.0  # three missed heartbeats: one may be late while Redis saves or fails over
HEARTBEAT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device of a node."""

    index: int
    uuid: str
    name: str
    total_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine, as its worker announced it."""

    name: str
    address: str  # where its engines listen
    max_instances: int
    gpus: tuple[Gpu, ...] = ()
    heartbeat_age_s: float | None = None  # computed at reading; None if it never beat
    claims: tuple[Claim, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    epoch: int = 0  # how often it was announced: only the last to do so writes its records

    @property
    def lost(self) -> bool:
        """Whether it has been silent for so long that nothing is placed on it."""
        return self.heartbeat_age_s is None or self.heartbeat_age_s > LOST_AFTER_S

    @property
    def free_slots(self) -> int:
        """How many more instances it takes."""
        return max(0, self.max_instances - len(self.claims))

    @property
    def free_gpus(self) -> tuple[Gpu, ...]:
        """Its devices that no instance holds, by index."""
        held = {uuid for claim in self.claims for uuid in claim.gpus}
        return tuple(gpu for gpu in self.gpus if gpu.uuid not in held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one instance holds of a node until it is verified gone."""

    instance_id: str
    gpus: tuple[str, ...] = ()  # UUIDs


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """An engine that runs on a node, with our marks, and that no record knows."""

    instance_id: str  # by its marks
    pids: tuple[int, ...]
    since: float  # when it was first seen, epoch seconds by the node's clock
    reaped_in_s: float  # unless a record of it turns up


def heartbeat_age(beat_at: float | None, now: float) -> float | None:
    """Return how many seconds ago a node last beat; None if it never did.

    One that beat in the future has not since the store's clock was set back, or since another
    server took its place: of a living node that is over at its next beat, of a dead one never.

    Args:
        beat_at: by the store's clock.
        now: by the store's clock.
    """
    if beat_at is None or beat_at - now > HEARTBEAT_S:
        return None
    return max(0.0, now - beat_at)
