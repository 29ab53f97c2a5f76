"""Forgetting an instance whose node is gone for good, because a person says so."""

from __future__ import annotations

from shared.domain.instance import Instance, Status
from shared.domain.node import Node
from shared.errors import Conflict
from shared.store import KEEP_FORGOTTEN_S, Change, Store


def lost_node(store: Store, instance: Instance) -> Node:
    """Return the node of an instance, which is lost.

    Raises:
        Conflict: the node lives, or was never announced.
        StoreUnavailable: to be tried again.
    """
    node = store.node(instance.node)
    if node is None or not node.lost:
        known = "has a living worker" if node else "is not known"
        raise Conflict(
            f"node {instance.node} {known}, so {instance.instance_id} cannot be forgotten; "
            "delete it without force"
        )
    return node


def forget(store: Store, instance: Instance, who: str) -> Instance:
    """Return the instance, stopped by `who` in the name of its lost node; its place is free.

    Nobody can verify that it is gone: should the node return, its worker sees that the record has
    ended and ends what still runs. A worker that announces the node in between is heard instead.

    Raises:
        Conflict: the node lives, or has just come back, or was never announced.
        StoreUnavailable: to be tried again.
    """
    node = lost_node(store, instance)
    reason = f"forgotten while node {node.name} was lost; its processes may still run there"
    for status in (Status.STOPPING, Status.STOPPED):
        now = store.get(instance.instance_id)
        if now is None or now.status is Status.STOPPED:
            break
        change = Change(
            instance_id=now.instance_id,
            node=now.node,
            epoch=node.epoch,  # refused once a worker has announced the node again
            generation=now.generation,
            status=status,
            fields={"reason": reason, "stage": "", "progress": None, "port": None, "pid": None},
            by="user",
            who=who,
            keep_s=KEEP_FORGOTTEN_S,  # a node that finds no record would write its own back
        )
        if not store.apply(change):
            raise Conflict(f"instance {now.instance_id} has just changed; look at it again")
    return store.get(instance.instance_id) or instance
