"""Which instances leave a node that is drained, and when.

An operator's own leave at once: no new request comes to them, those that run may end. A replica of
the catalogue stays until another has come up elsewhere: who sees to its model asks it to leave,
with `BY_DRAIN`, as soon as that is so or there is no room for another. Should nobody do that, it
leaves with the others after `REPLACED_WITHIN_S`.
"""

from __future__ import annotations

from shared.domain.instance import BY_DRAIN, WITHDRAWABLE, Desired, Instance

__all__ = ["BY_DRAIN", "REPLACED_WITHIN_S", "leaves", "leaves_at_once", "why_it_leaves"]

REPLACED_WITHIN_S = 600.0  # a large model loads for minutes


def leaves_at_once(instance: Instance) -> bool:
    """Return whether an instance of a draining node is to be asked to leave without more ado."""
    return leaves(instance, 0.0)


def leaves(instance: Instance, drained_for_s: float) -> bool:
    """Return whether an instance is to be asked to leave now, so long after the drain began."""
    if instance.desired is Desired.STOPPED:
        return instance.stop_by in WITHDRAWABLE  # else a request would keep it
    return not instance.catalogue or drained_for_s >= REPLACED_WITHIN_S


def why_it_leaves(node: str) -> str:
    """Return the reason to record."""
    return f"node {node} is drained"
