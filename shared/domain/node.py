"""A machine that runs one Celery worker, and its GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from shared.domain.wanted import WHOLE

SIMULATED = "SIM-"
"""What the UUIDs of simulated GPUs begin with; NVIDIA's begin with GPU- or MIG-."""
_MIG = "MIG-"

LOST_AFTER_S = 15.0  # three missed heartbeats: one may be late while Redis saves or fails over
HEARTBEAT_S = 5.0
REPORTED_WITHIN_S = 2 * HEARTBEAT_S + 2.0  # a driver is asked at one beat, told of at the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device of a node."""

    index: int
    uuid: str
    name: str
    total_mib: int
    free_mib: int | None = None  # by its driver, at the last heartbeat; None: it does not say
    foreign_mib: int = 0  # of what is not free: held by processes that are not our engines'
    simulated: bool = False  # there is no such device: for tests and demos

    @property
    def is_part(self) -> bool:
        """Whether it is a MIG device; a CUDA process sees one of those at most."""
        return self.uuid.startswith(_MIG)


def real(uuids: Iterable[str]) -> tuple[str, ...]:
    """Return those GPUs that are not simulated."""
    return tuple(uuid for uuid in uuids if not uuid.startswith(SIMULATED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine, as its worker announced it and last reported it."""

    # announced
    name: str
    address: str  # where its engines listen
    max_instances: int
    gpus: tuple[Gpu, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    engine_version: str = ""  # of vLLM, where it could be told

    # reported with heartbeats
    heartbeat_age_s: float | None = None  # computed at reading; None if it never beat
    models: frozenset[str] = frozenset()  # names whose weights lie on it
    loads: Mapping[str, Load] = field(default_factory=dict)  # of its running instances, by id

    # kept by the store
    claims: tuple[Claim, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    epoch: int = 0  # how often it was announced: only the last to do so writes its records
    cordoned: bool = False  # by an operator: takes no new placements
    draining: bool = False  # and its instances leave it, once their requests have ended

    # of the claims, added up once: placing looks at this of every node
    held: Mapping[str, int] = field(init=False, repr=False, compare=False)
    """What instances hold of each of its devices: UUID → thousandths, those held only."""
    free_in_all: int = field(init=False, repr=False, compare=False)
    """Thousandths of its devices that no instance holds, in sum."""

    def __post_init__(self) -> None:
        sums: dict[str, int] = {}
        for claim in self.claims:
            for uuid, share in claim.shares.items():
                sums[uuid] = sums.get(uuid, 0) + share
        object.__setattr__(self, "held", sums)
        object.__setattr__(self, "free_in_all", WHOLE * len(self.gpus) - sum(sums.values()))

    @property
    def lost(self) -> bool:
        """Whether it has been silent for so long that nothing is placed on it."""
        return self.heartbeat_age_s is None or self.heartbeat_age_s > LOST_AFTER_S

    @property
    def silence(self) -> str:
        """How it is lost, in words that follow its name and a colon; "alive" if it is not."""
        if self.heartbeat_age_s is None:
            return "lost: its worker has stopped"
        return f"lost: silent for {self.heartbeat_age_s:.0f} s" if self.lost else "alive"

    @property
    def drained(self) -> bool:
        """Whether it is draining, and nothing is left on it."""
        return self.draining and not self.claims

    @property
    def simulated(self) -> bool:
        """Whether its GPUs are: for tests and demos only."""
        return any(gpu.simulated for gpu in self.gpus)

    @property
    def free_slots(self) -> int:
        """How many more instances it takes."""
        return max(0, self.max_instances - len(self.claims))

    @property
    def free_gpus(self) -> tuple[Gpu, ...]:
        """Its devices that no instance holds, by index."""
        held = self.held
        return tuple(gpu for gpu in self.gpus if gpu.uuid not in held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one instance holds of a node until it is verified gone."""

    instance_id: str
    shares: Mapping[str, int] = field(default_factory=dict)  # GPU's UUID → thousandths of it

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of the devices that it holds of."""
        return tuple(self.shares)


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine says of its requests."""

    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """What a driver says of one device."""

    free_mib: int | None
    foreign_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What a worker tells of its node with a heartbeat."""

    memory: Mapping[str, GpuMemory] = field(default_factory=dict)  # by UUID
    loads: Mapping[str, Load] = field(default_factory=dict)  # of running instances, by id
    models: frozenset[str] = frozenset()  # names whose weights lie on it

    def told_of(self, node: Node) -> Node:
        """Return `node` with what this says of it."""
        gpus = self.told_of_gpus(node.gpus)
        return replace(node, gpus=gpus, loads=self.loads, models=self.models)

    def told_of_gpus(self, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
        """Return devices with what this says of them."""
        told = (self.memory.get(gpu.uuid, GpuMemory(None)) for gpu in gpus)
        return tuple(
            replace(gpu, free_mib=memory.free_mib, foreign_mib=memory.foreign_mib)
            for gpu, memory in zip(gpus, told, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """An engine that runs on a node, with our marks, and that no record knows."""

    instance_id: str  # by its marks
    pids: tuple[int, ...]
    since: float  # when it was first seen, epoch seconds by the node's clock
    reaped_in_s: float  # unless a record of it turns up


def as_just_freed(node: Node, freed_ago_s: float | None) -> Node:
    """Return the node as it is after something of it was given back.

    What its drivers said is free may be from before that, for as long as a report takes.

    Args:
        node: as it was reported.
        freed_ago_s: seconds since the last claim of it was released; None: none was.
    """
    if freed_ago_s is None or is_reported_anew(freed_ago_s):
        return node
    return replace(node, gpus=tuple(replace(gpu, free_mib=None) for gpu in node.gpus))


def is_reported_anew(freed_ago_s: float) -> bool:
    """Return whether what a node's drivers say is from after its last release of a claim."""
    return not 0.0 <= freed_ago_s < REPORTED_WITHIN_S


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
