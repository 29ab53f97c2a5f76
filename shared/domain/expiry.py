"""When an instance that nobody uses is due to be stopped, and when so many are that it looks wrong.

A clock that was set, or a web tier that cannot report what is in use, makes all instances look idle
at once. So where more than half of those that run are due, each is held back for a while first, and
its events say so; use that is reported meanwhile keeps it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shared.domain.instance import Instance


def due_at(instance: Instance) -> float | None:
    """Return when `instance` expires if nobody touches it, in epoch seconds; None: never.

    Idleness counts from the end of the last request, or from ready where there was none; an
    instance that does not serve is not idle but loading, stopping or gone.
    """
    if not instance.serving or instance.timeout == 0:
        return None
    last_used = instance.last_active or instance.ready_at
    return None if last_used is None else last_used + instance.timeout


def is_due(instance: Instance, now: float) -> bool:
    """Return whether `instance` has been idle for its whole timeout at `now`."""
    due = due_at(instance)
    return due is not None and due <= now


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep is to do about the instances that are due."""

    stop: Mapping[str, str]  # id → why
    hold: Mapping[str, str]  # those held back from now on: id → why
    held: Collection[str]  # all that are held back after this sweep


def sweep(
    instances: Collection[Instance], held: Mapping[str, float], now: float, hold_s: float
) -> Sweep:
    """Return which idle instances to stop, and which to hold back.

    Args:
        instances: of the whole fleet.
        held: those that are held back, since when.
        now: by the clock of all these times, the store's.
        hold_s: how long they are; 0: nothing is, and the events only say how many end at once.
    """
    due = {one.instance_id: one for one in instances if is_due(one, now)}
    running = sum(one.serving for one in instances)
    if not is_suspicious(len(due), running):
        return Sweep({name: _idle(one) for name, one in due.items()}, {}, ())
    share = f"{len(due)} of {running} running instances are due at once"
    if hold_s == 0:
        return Sweep({name: f"{_idle(one)}; {share}" for name, one in due.items()}, {}, ())
    # A time in the future is another clock's: it begins anew.
    since = {name: held[name] for name in due if held.get(name, now + 1.0) <= now}
    over = {name for name, at in since.items() if now - at >= hold_s}
    stop = {name: f"{_idle(due[name])}; held back for {hold_s:g} s: {share}" for name in over}
    hold = {
        name: f"{_idle(one)}; held back for {hold_s:g} s: {share}"
        for name, one in due.items()
        if name not in since
    }
    return Sweep(stop, hold, due.keys() - over)


def is_suspicious(due: int, running: int) -> bool:
    """Return whether it is more than half of those that run; the last one may always go."""
    return due > 1 and 2 * due > running


def _idle(instance: Instance) -> str:
    return f"idle for {instance.timeout} s, its timeout"
