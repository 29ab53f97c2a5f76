"""When an instance that nobody uses is due to be stopped."""

from __future__ import annotations

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
