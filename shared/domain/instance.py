"""The managed thing: its record, its statuses and the arrows between them.

    pending ─▶ starting ─▶ running ◀─▶ unhealthy
       │          │           │            │
       │          └───────────┴────────────┴─▶ backoff ─▶ starting
       │          └──────────────────────────▶ failed
       └─▶ any of these ─▶ stopping ─▶ stopped | stop_failed

The web tier writes the spec, `desired` and `generation` (so does the idle sweep); the node's worker
writes everything else. Nobody rewrites a whole record.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shared.domain.placement import Placement
from shared.domain.wanted import Wanted

INSTANCE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""What an instance id looks like: a DNS label, so it can be a path segment, a file name, a key."""

_SUFFIX_CHARS = 8  # 40 random bits: ids are never reused and cannot be guessed by a neighbour
_SLUG_CHARS = 48


class Status(StrEnum):
    """Where an instance is in its life, as its node's worker last saw it."""

    PENDING = "pending"  # recorded and placed; its node has not begun
    STARTING = "starting"  # the engine is being spawned or loads its model
    RUNNING = "running"  # the engine answers
    UNHEALTHY = "unhealthy"  # was running; hung, or dead and not all of it is gone
    BACKOFF = "backoff"  # crashed; waits before the next start
    FAILED = "failed"  # given up; `reason` says why
    STOPPING = "stopping"  # asked to stop; not yet verified gone
    STOPPED = "stopped"  # process tree, port and GPU memory verified gone
    STOP_FAILED = "stop_failed"  # something of it could not be ended; keeps its claim


class Desired(StrEnum):
    """What the web tier wants; the worker makes it so."""

    RUNNING = "running"
    STOPPED = "stopped"


_STOPPABLE = frozenset(
    {
        Status.PENDING,
        Status.STARTING,
        Status.RUNNING,
        Status.UNHEALTHY,
        Status.BACKOFF,
        Status.FAILED,
        Status.STOP_FAILED,
    }
)

_NEXT: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.STARTING, Status.FAILED, Status.STOPPING}),
    Status.STARTING: frozenset(
        {Status.RUNNING, Status.BACKOFF, Status.FAILED, Status.STOPPING},
    ),
    Status.RUNNING: frozenset(
        {Status.UNHEALTHY, Status.BACKOFF, Status.FAILED, Status.STOPPING},
    ),
    Status.UNHEALTHY: frozenset(
        {Status.RUNNING, Status.BACKOFF, Status.FAILED, Status.STOPPING},
    ),
    Status.BACKOFF: frozenset({Status.STARTING, Status.FAILED, Status.STOPPING}),
    Status.FAILED: frozenset({Status.STOPPING}),
    Status.STOPPING: frozenset({Status.STOPPED, Status.STOP_FAILED}),
    Status.STOPPED: frozenset(),
    Status.STOP_FAILED: frozenset({Status.STOPPING, Status.STOPPED}),
}

BY_IDLE = "idle"
"""Who asked, where nobody used it: such a stop is withdrawn if a request turns out to run."""

BY_EVICT = "evict"
"""Who asked, where nobody used it and another needs its place; withdrawn as the idle sweep's."""

WITHDRAWABLE = frozenset({BY_IDLE, BY_EVICT})

BY_DRAIN = "drain"
"""Who asked, where an operator drains its node: its requests may take their time to end."""

SERVING = frozenset({Status.RUNNING})
"""Statuses in which the proxy sends requests."""

SETTLED = frozenset({Status.RUNNING, Status.FAILED, Status.STOPPED, Status.STOP_FAILED})
"""Statuses at which a caller who waits for a start has the answer."""

RELEASED = frozenset({Status.FAILED, Status.STOPPED})
"""Statuses in which nothing of the engine is left, so the claim is released."""


_FIRMNESS = {BY_IDLE: 0, BY_EVICT: 0, BY_DRAIN: 1}  # of anybody else: 2


def takes_over(by: str, stop_by: str) -> bool:
    """Return whether a stop asked `by` one takes the place of the one that `stop_by` asked.

    A user's of a drain's, which would let requests run for longer; either of one that may be
    withdrawn.
    """
    return _FIRMNESS.get(by, 2) > _FIRMNESS.get(stop_by, 2)


def asks_once_more(by: str) -> bool:
    """Return whether a stop asked `by` one is a new try where the last one failed."""
    return by not in _FIRMNESS


def may_become(status: Status) -> frozenset[Status]:
    """Return the statuses that an arrow of the diagram leads to from `status`."""
    return _NEXT[status]


def may_precede(status: Status) -> frozenset[Status]:
    """Return the statuses from which an arrow leads to `status`."""
    return frozenset(before for before, after in _NEXT.items() if status in after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How an engine's first process ended."""

    code: int | None  # exit status; None if a signal ended it or nobody saw the end
    signal: int | None  # number of the signal that ended it
    at: float | None  # epoch seconds

    def __str__(self) -> str:
        """Say it as an operator would."""
        if self.signal is not None:
            return f"ended by signal {self.signal}"
        if self.code is not None:
            return f"exited with status {self.code}"
        return "ended without a trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance, as recorded. Times are UTC epoch seconds by Redis's clock."""

    # written by the web tier, once
    instance_id: str
    model_name: str
    params: Mapping[str, object]  # merged: defaults < VLLM_CONFIG < request
    timeout: int  # idle seconds before it is stopped; 0 = never
    node: str  # "" while it waits in line for a place
    env: Mapping[str, str] = field(default_factory=dict)  # of the engine, asked for; no secrets
    gpus: tuple[str, ...] = ()  # UUIDs; empty on a node without GPUs
    wanted: Wanted = field(default_factory=Wanted)  # of its place
    reserved: Placement | None = None  # its place while it waits for others to leave it
    created_at: float = 0.0
    catalogue: str = ""  # name of the catalogue's entry that it is a replica of

    # written by the web tier, the idle sweep and whoever serves the line
    desired: Desired = Desired.RUNNING
    generation: int = 1
    stop_reason: str = ""
    stop_by: str = ""  # who asked: user, idle, evict

    # written by the node's worker
    status: Status = Status.PENDING
    reason: str = ""
    stage: str = ""  # load stage while starting, see workers.stages
    progress: float | None = None  # of the stage, 0 to 1, where the log tells
    stage_detail: str = ""  # what of the stage is done, in the log's words: 2/4
    eta: float | None = None  # when ready is expected, from earlier starts; only while starting
    observed_generation: int = 0
    revision: int = 0  # changes of status and desire so far; tells an older copy of the record
    host: str = ""
    port: int | None = None
    pid: int | None = None  # the engine's first process
    start_time: int | None = None  # of pid, clock ticks since boot: /proc/PID/stat field 22
    boot_id: str = ""
    engine_key: str = field(default="", repr=False)  # only the proxy and the engine know it
    started_at: float | None = None
    ready_at: float | None = None
    ended_at: float | None = None
    run: int = 0  # number of the engine's current or last spawn, from 1; 0 before the first
    restarts: int = 0  # spawns after the first
    cause: str = ""  # short code of its last crash; it stays while the engine is started again
    advice: str = ""  # what to change
    exit: Exit | None = None
    last_log: tuple[str, ...] = ()  # of an engine that crashed
    first_cause: str = ""  # of the first crash since it last ran for long: the root of a loop
    first_reason: str = ""
    retry_at: float | None = None  # when it starts again, while in backoff
    crashes: tuple[float, ...] = ()  # times of those within the last hour, oldest first
    failed_starts: int = 0  # crashes in a row that were never ready
    backoff_step: int = 0  # crashes since it last ran for long, see domain.backoff

    # written by the worker at ready, then by touches
    last_active: float | None = None

    @property
    def shown_status(self) -> Status:
        """Status as callers see it: one that is asked to stop is `stopping` from that moment."""
        if self.desired is Desired.STOPPED and self.status in _STOPPABLE - {Status.STOP_FAILED}:
            return Status.STOPPING
        return self.status

    @property
    def serving(self) -> bool:
        """Whether the proxy may send it requests."""
        return self.desired is Desired.RUNNING and self.status in SERVING

    @property
    def waiting(self) -> bool:
        """Whether it waits in line: no node has it yet."""
        return not self.node and self.status is Status.PENDING

    @property
    def shares(self) -> dict[str, int]:
        """What it holds of its GPUs, as a claim says it: UUID → thousandths."""
        return dict.fromkeys(self.gpus, self.wanted.thousandths)

    @property
    def counts(self) -> bool:
        """Whether it is a replica to reckon with: it takes requests, or is on its way to."""
        return self.desired is Desired.RUNNING and self.status not in RELEASED

    @property
    def about_to_stop_as_idle(self) -> bool:
        """Whether it is asked to stop because nobody uses it, and still runs.

        It takes no new requests, and goes on if one turns out to run in it.
        """
        return self.stop_by in WITHDRAWABLE and self.status is Status.RUNNING

    @property
    def rests(self) -> bool:
        """Whether its worker has nothing to do about it until somebody asks for something."""
        return self.ended or (self.status is Status.FAILED and self.desired is Desired.RUNNING)

    @property
    def ended(self) -> bool:
        """Whether it is over and verified gone."""
        return self.status is Status.STOPPED


def new_instance_id(model_name: str) -> str:
    """Return a new id for an instance of `model_name`: its slug and a random suffix."""
    slug = re.sub(r"[^a-z0-9]+", "-", model_name.rstrip("/").rsplit("/", 1)[-1].lower())
    slug = slug.strip("-")[:_SLUG_CHARS].strip("-") or "model"
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    return f"{slug}-{''.join(secrets.choice(alphabet) for _ in range(_SUFFIX_CHARS))}"
