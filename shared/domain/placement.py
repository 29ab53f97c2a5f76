"""Where a new instance runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.domain.node import Node
from shared.errors import NoCapacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A node, and the GPUs of it that the instance gets."""

    node: str
    gpus: tuple[str, ...] = ()  # UUIDs, by index


def choose_placement(nodes: Iterable[Node], gpu_count: int) -> Placement:
    """Pick the node that a new instance of `gpu_count` GPUs goes to.

    GPU nodes come before those without, and the fullest that still fits before emptier ones, so
    that large holes stay large; nodes without GPUs only count instances, and there the emptiest
    comes first, because instances share its cores.

    Pure: claims nothing. The caller claims the result atomically and calls again if another
    caller was faster.

    Raises:
        NoCapacity: no node has room; says why for each.
    """
    known = sorted(nodes, key=lambda node: node.name)
    refusals = {node.name: _refusal(node, gpu_count) for node in known}
    fitting = [node for node in known if refusals[node.name] is None]
    if not fitting:
        raise NoCapacity(_no_room(refusals))
    best = min(fitting, key=_preference)
    return Placement(node=best.name, gpus=tuple(gpu.uuid for gpu in best.free_gpus[:gpu_count]))


def _preference(node: Node) -> tuple[bool, int, str]:
    if node.gpus:
        return (False, len(node.free_gpus), node.name)
    return (True, -node.free_slots, node.name)


def _refusal(node: Node, gpu_count: int) -> str | None:
    if node.lost:
        return "is lost: its worker sends no heartbeat"
    if node.free_slots == 0:
        return f"runs {len(node.claims)} of at most {node.max_instances} instances"
    if node.gpus and len(node.free_gpus) < gpu_count:
        return f"has {len(node.free_gpus)} free of {len(node.gpus)} GPUs, {gpu_count} needed"
    return None


def _no_room(refusals: dict[str, str | None]) -> str:
    if not refusals:
        return "no node has room: no worker has registered yet"
    listed = "; ".join(f"{name} {why}" for name, why in refusals.items())
    return f"no node has room: {listed}"
