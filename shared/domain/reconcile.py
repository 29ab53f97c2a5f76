"""What a node's supervisor does next about one instance: compare the record with what runs.

Pure and total: same inputs, same action; doing an action twice is harmless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from shared.domain.instance import BY_DRAIN, Desired, Exit, Instance, Status


class Remains(StrEnum):
    """How much of an engine is left."""

    NOT_SPAWNED = "not_spawned"  # its run directory was never made
    ALIVE = "alive"  # its first process runs
    ENDING = "ending"  # its first process ended, its shim clears up
    LEFTOVERS = "leftovers"  # its shim is gone, processes of its tree or its port are not
    GONE = "gone"  # nothing of it runs, its port and GPUs are free


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a supervisor sees of one engine on its node."""

    remains: Remains
    ready: bool = False  # answers, and lists our model name
    hung: str = ""  # why it counts as hung; "" if it does not
    well: bool = False  # makes steps, or has none to make: seen since it was taken for hung
    exit: Exit | None = None  # how the first process ended, once it has
    leaderless: bool = False  # its first process has ended, or there never was one
    busy: bool | None = False  # requests run in it; None: not known yet
    idle_asked_at: float | None = None  # when the idle sweep's stop was first seen
    ending_since: float | None = None  # since when its shim clears up
    leftovers_since: float | None = None  # since when its shim is gone, and not all of it
    stop_begun_at: float | None = None  # when it left the routing tables
    terminated_at: float | None = None  # when SIGTERM was sent
    last_progress_at: float | None = None  # when its log last showed the load going on
    told_to_stop: bool = False  # by a worker, which may have died since
    told_to_end: bool = False  # so, too, and to be started again
    retry_due: bool = False  # its back-off is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the supervisor waits, in seconds."""

    start_stall: float  # without progress, before a start is given up
    drain: float  # for running requests, before SIGTERM
    drain_node: float = 3600.0  # so, where the node is drained: nobody waits for the end
    stop: float  # after SIGTERM, before SIGKILL of the whole tree
    hang: float = 120.0  # with requests running and no step made, before an engine counts as hung
    use_report: float = 3.0  # for the web tier to say that it is in use after all
    verify: float = 10.0  # after SIGKILL: the kernel may need seconds to free GPU memory
    last_words: float = 0.4  # for a shim to write down how the engine ended, before it is told


class Action(StrEnum):
    """What to do next about one instance."""

    WAIT = "wait"  # nothing now
    LOOK_AGAIN = "look_again"  # nothing now, but something is about to show
    SPAWN = "spawn"  # begin a start: choose a port, spawn the shim
    ADOPT = "adopt"  # write down what runs already: the record is older than the engine
    MARK_RUNNING = "mark_running"
    MARK_UNHEALTHY = "mark_unhealthy"  # it hangs, or is dead: out of the routing tables
    BEGIN_STOP = "begin_stop"  # write `stopping`; requests drain
    TERMINATE = "terminate"  # SIGTERM to the engine, by its shim
    KILL = "kill"  # SIGKILL to all that is left
    MARK_STOPPED = "mark_stopped"
    MARK_STOP_FAILED = "mark_stop_failed"
    GIVE_UP_START = "give_up_start"  # no progress for too long: end the engine, start it again
    END_HUNG = "end_hung"  # end the engine, start it again
    GO_ON_ENDING = "go_on_ending"  # a worker wrote why, and died before it ended the engine
    MARK_CRASHED = "mark_crashed"  # `backoff`, or `failed`, with the cause


def plan(record: Instance | None, seen: Observation, now: float, patience: Patience) -> Action:
    """Return what to do next about one instance of this node.

    Args:
        record: None for an engine with our marker that no record knows; such a one is left
            alone, because a missing record is not a reason to kill what works.
        seen: what its engine looks like.
        now: seconds, by the same clock as the times in `seen`.
        patience: how long to wait for what.
    """
    if record is None:
        return Action.WAIT
    if record.status is Status.STOPPED or _has_failed(record):
        return Action.KILL if seen.remains is Remains.LEFTOVERS else Action.WAIT
    if record.status in _ENDING or record.desired is Desired.STOPPED:
        return _plan_stop(record, seen, now, patience)
    return _plan_run(record, seen, now, patience)


def _has_failed(record: Instance) -> bool:
    return record.status is Status.FAILED and record.desired is Desired.RUNNING


_ENDING = frozenset({Status.STOPPING, Status.STOP_FAILED})
_NOTHING_LEFT = frozenset({Remains.NOT_SPAWNED, Remains.GONE})


def _plan_stop(record: Instance, seen: Observation, now: float, patience: Patience) -> Action:
    if record.status is Status.STOP_FAILED:
        return _plan_stop_failed(record, seen)
    if record.status is not Status.STOPPING:
        by_idle = record.about_to_stop_as_idle
        return _plan_idle_stop(seen, now, patience) if by_idle else Action.BEGIN_STOP
    if seen.remains in _NOTHING_LEFT:
        return Action.MARK_STOPPED
    if seen.terminated_at is None:
        waited = math.inf if seen.stop_begun_at is None else now - seen.stop_begun_at
        drain_s = patience.drain_node if record.stop_by == BY_DRAIN else patience.drain
        drained = seen.busy is False or bool(seen.hung) or waited > drain_s
        return Action.TERMINATE if drained else Action.WAIT
    return _plan_terminated(seen, seen.terminated_at, now, patience)


def _plan_terminated(
    seen: Observation, terminated_at: float, now: float, patience: Patience
) -> Action:
    if now - terminated_at > patience.stop + patience.verify:
        return Action.MARK_STOP_FAILED
    if seen.remains is Remains.LEFTOVERS and seen.leaderless:
        return Action.KILL  # there is nobody left to end it, nor anybody to be waited for
    return _wait_for_end(terminated_at, now, patience)


def _plan_stop_failed(record: Instance, seen: Observation) -> Action:
    if seen.remains in _NOTHING_LEFT:  # the kernel or an operator has done it
        return Action.MARK_STOPPED
    asked_again = record.generation > record.observed_generation
    return Action.BEGIN_STOP if asked_again else Action.WAIT


def _plan_idle_stop(seen: Observation, now: float, patience: Patience) -> Action:
    # No new request comes; of one that began just before, or in an outage of the store, the web
    # tier is about to tell, and that takes the stop back.
    if seen.remains is not Remains.ALIVE or seen.idle_asked_at is None:
        return Action.BEGIN_STOP
    told_by_now = now - seen.idle_asked_at > patience.use_report
    return Action.BEGIN_STOP if told_by_now else Action.WAIT


_NOT_STARTED = frozenset({Status.PENDING, Status.STARTING})
_AT_REST = frozenset({Status.PENDING, Status.BACKOFF})


def _plan_run(record: Instance, seen: Observation, now: float, patience: Patience) -> Action:
    if record.status in _NOT_STARTED and seen.remains is Remains.NOT_SPAWNED:
        return Action.SPAWN
    match seen.remains:
        case Remains.ALIVE:
            return _plan_alive(record, seen, now, patience)
        case Remains.ENDING:
            return _plan_ending(record, seen, now, patience)
        case Remains.LEFTOVERS:
            return _plan_leftovers(record, seen, now, patience)
        case Remains.GONE | Remains.NOT_SPAWNED:
            return _plan_gone(record, seen)


def _plan_alive(record: Instance, seen: Observation, now: float, patience: Patience) -> Action:
    if seen.told_to_stop:
        return Action.BEGIN_STOP
    if record.status in _AT_REST:
        return Action.ADOPT
    if seen.terminated_at is not None:
        return _wait_for_end(seen.terminated_at, now, patience)
    if seen.told_to_end:
        return Action.GO_ON_ENDING
    if record.status is Status.STARTING:
        return _plan_load(seen, now, patience)
    return _plan_by_health(record, seen)


def _plan_load(seen: Observation, now: float, patience: Patience) -> Action:
    if seen.ready:
        return Action.MARK_RUNNING
    stalled_s = 0.0 if seen.last_progress_at is None else now - seen.last_progress_at
    return Action.GIVE_UP_START if stalled_s > patience.start_stall else Action.WAIT


def _plan_by_health(record: Instance, seen: Observation) -> Action:
    if record.status is Status.RUNNING:
        return Action.MARK_UNHEALTHY if seen.hung else Action.WAIT
    if seen.hung:
        return Action.END_HUNG
    return Action.MARK_RUNNING if seen.well else Action.WAIT


def _plan_ending(record: Instance, seen: Observation, now: float, patience: Patience) -> Action:
    for_s = 0.0 if seen.ending_since is None else now - seen.ending_since
    # What a shim knows at once it tells soon; to clear up may take it longer.
    if for_s > patience.verify + (patience.stop if seen.exit else 0.0):  # it is stuck
        return Action.KILL
    if seen.told_to_stop:
        return Action.BEGIN_STOP
    if record.status in _AT_REST:
        return Action.LOOK_AGAIN if record.status is Status.PENDING else Action.WAIT
    # The crash is written as soon as it is known how the first process ended: requests go
    # elsewhere, while the shim clears up what is left of the tree.
    if seen.exit is not None:
        return Action.MARK_CRASHED
    return Action.MARK_UNHEALTHY if _is_overdue(record, for_s, patience) else Action.LOOK_AGAIN


def _plan_leftovers(record: Instance, seen: Observation, now: float, patience: Patience) -> Action:
    for_s = 0.0 if seen.leftovers_since is None else now - seen.leftovers_since
    if for_s > patience.stop + patience.verify:
        # What cannot be ended is `stop_failed` in the end: that says so, and keeps the claim.
        return Action.BEGIN_STOP
    return Action.MARK_UNHEALTHY if _is_overdue(record, for_s, patience) else Action.KILL


def _is_overdue(record: Instance, dead_for_s: float, patience: Patience) -> bool:
    """Return whether a dead engine still gets requests, because nobody has said how it ended."""
    return record.status is Status.RUNNING and dead_for_s > patience.last_words


def _plan_gone(record: Instance, seen: Observation) -> Action:
    if seen.told_to_stop:
        return Action.BEGIN_STOP
    if record.status is Status.PENDING:  # it lived and died unseen: first that it was started
        return Action.ADOPT
    if record.status is Status.BACKOFF:
        return Action.SPAWN if seen.retry_due else Action.WAIT
    return Action.MARK_CRASHED


def _wait_for_end(terminated_at: float, now: float, patience: Patience) -> Action:
    # The shim kills what is left when its patience, the same as ours, is over; killing from here
    # is for a tree whose shim is dead, hence the second later.
    return Action.KILL if now - terminated_at > patience.stop + 1 else Action.WAIT
