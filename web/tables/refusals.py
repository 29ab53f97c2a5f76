"""What is answered for an instance that takes no requests. Pure."""

from __future__ import annotations

from shared.domain.instance import Desired, Instance, Status
from shared.errors import InstanceNotReady

LOADING_RETRY_S = 5


def refusal_of(instance: Instance) -> InstanceNotReady:
    """Return what to answer for an instance that takes no requests; says why and when."""
    name, status = instance.instance_id, instance.shown_status
    why = f": {instance.reason}" if instance.reason else ""
    if instance.ended:
        return InstanceNotReady(f"instance {name} is stopped{why}", retry_after_s=None)
    if instance.waiting and status is Status.PENDING:
        return InstanceNotReady(
            f"instance {name} waits in line for a place{why}", retry_after_s=LOADING_RETRY_S
        )
    if status in (Status.PENDING, Status.STARTING, Status.BACKOFF):
        return InstanceNotReady(
            f"instance {name} is {status}{_stage(instance)}", retry_after_s=LOADING_RETRY_S
        )
    if instance.about_to_stop_as_idle:
        return InstanceNotReady(f"instance {name} is about to stop as idle", retry_after_s=1)
    if instance.desired is Desired.STOPPED:
        return InstanceNotReady(f"instance {name} is {status}", retry_after_s=None)
    return InstanceNotReady(f"instance {name} is {status}{why}", retry_after_s=None)


def without_record(name: str) -> str:
    """Return what is said of one that the store has lost before it ran."""
    return f"instance {name} is not known any more: Redis has no record of it"


def _stage(instance: Instance) -> str:
    if not instance.stage:
        return ""
    percent = "" if instance.progress is None else f" {instance.progress:.0%}"
    return f", stage {instance.stage}{percent}"
