"""What is answered for instances of lost nodes.

That a worker is silent says nothing of its engines: they outlive it, and requests to them go on. So
a lost node's instances are asked like all others; but where one takes no connection, nobody is to
wait for the next attempt: for some seconds, callers are told at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from shared.domain.instance import Instance
from shared.errors import InstanceNotReady

_RETRY_S = 5  # until a connection is tried again
_MOST = 4096  # instances that are remembered, newest kept


class LostNodes:
    """Remembers which instances took no connection while their node was lost.

    Args:
        why_lost: how a node is lost, by its name; "" if it is not.
    """

    def __init__(self, why_lost: Callable[[str], str]) -> None:
        self._why_lost = why_lost
        self._until: dict[str, float] = {}  # instance id → when to try again, oldest first
        self._changing = threading.Lock()

    def unreached(self, instance: Instance) -> InstanceNotReady | None:
        """Hear that the instance took no connection, or broke it; return what to answer.

        None where its node is not lost: then it is a gateway's error.
        """
        if not self._why_lost(instance.node):
            return None
        with self._changing:
            self._until.pop(instance.instance_id, None)
            self._until[instance.instance_id] = monotonic() + _RETRY_S
            if len(self._until) > _MOST:
                del self._until[next(iter(self._until))]
        return self._refusal(instance)

    def refusal(self, instance: Instance) -> InstanceNotReady | None:
        """Return what to answer at once; None if the instance is to be asked."""
        until = self._until.get(instance.instance_id)
        if until is None:
            return None
        if monotonic() >= until or not self._why_lost(instance.node):
            with self._changing:
                self._until.pop(instance.instance_id, None)
            return None
        return self._refusal(instance)

    def __bool__(self) -> bool:
        """Whether there is anything to answer at once; the request path asks this first."""
        return bool(self._until)

    def _refusal(self, instance: Instance) -> InstanceNotReady:
        why = self._why_lost(instance.node)
        return InstanceNotReady(
            f"instance {instance.instance_id} cannot be reached: node {instance.node} is {why}",
            retry_after_s=_RETRY_S,
        )
