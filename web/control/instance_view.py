"""Instances as callers of REST see them."""

from __future__ import annotations

from dataclasses import fields

from shared.domain.instance import Instance
from shared.domain.node import Node
from web.control.standing import Standing

_HIDDEN = frozenset({"engine_key", "observed_generation", "boot_id", "start_time"})
_SHOWN = tuple(field.name for field in fields(Instance) if field.name not in _HIDDEN)


def public(
    instance: Instance, node: Node | None, standing: Standing | None = None
) -> dict[str, object]:
    """Return the record as callers see it: no secrets, how its node is, where it stands in line."""
    shown: dict[str, object] = {name: getattr(instance, name) for name in _SHOWN}
    return {
        **shown,
        "status": instance.shown_status,
        "exit": str(instance.exit) if instance.exit else None,
        "eta": standing.eta if standing else instance.eta,
        "position": standing.position if standing else None,
        "share": None if instance.node and not instance.gpus else instance.wanted.share,
        "simulated": node is not None and node.simulated,
        "node_status": node_status(instance, node),
    }


def node_status(instance: Instance, node: Node | None) -> str:
    """Return how the instance's node is, in words."""
    if not instance.node:
        return "none yet: it waits in line" if instance.waiting else "none"
    if node is None:
        return "lost: its worker has stopped"
    return node.silence if node.lost else "alive"
