"""Whether a node has room for an instance, and why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from shared.domain.node import Gpu, Node
from shared.domain.wanted import WHOLE, Wanted

_GPUS_TOLD = 8
"""In one reason: a machine has rarely more."""


def why_not(node: Node, wanted: Wanted) -> str | None:
    """Return why the node does not take the instance now; None if it does."""
    return why_never(node, wanted) or _why_full(node, wanted)


def fits(node: Node, wanted: Wanted) -> bool:
    """Return whether the node takes the instance now; `why_not` without the words."""
    if not node.free_slots or why_never(node, wanted):
        return False
    found, held = 0, node.held
    for gpu in _named(node, wanted):
        found += _has_room(gpu, held.get(gpu.uuid, 0), wanted)
        if found == wanted.gpus:
            return True
    return not node.gpus


def why_never(node: Node, wanted: Wanted) -> str | None:
    """Return why the node would not take the instance, were it empty; None if it would."""
    return _why_closed(node) or why_unfit(node, wanted)


def why_unfit(node: Node, wanted: Wanted) -> str | None:
    """Return why the node would not take the instance were it empty and open; None if it would."""
    return (
        _why_not_meant(node, wanted)
        or _labels_missing(node, wanted)
        or _why_never_by_gpus(node, wanted)
    )


def gpus_with_room(node: Node, wanted: Wanted) -> list[Gpu]:
    """Return the node's devices that take the instance now, by index."""
    held = node.held
    return [gpu for gpu in _named(node, wanted) if _has_room(gpu, held.get(gpu.uuid, 0), wanted)]


def without(node: Node, leaving: Collection[str]) -> Node:
    """Return the node as it will be once these instances have left it.

    What its drivers say is free then is not known; what others hold stays.
    """
    gone = [claim for claim in node.claims if claim.instance_id in leaving]
    freed = {uuid for claim in gone for uuid in claim.shares}
    return replace(
        node,
        claims=tuple(claim for claim in node.claims if claim.instance_id not in leaving),
        gpus=tuple(replace(gpu, free_mib=None) if gpu.uuid in freed else gpu for gpu in node.gpus),
    )


def _why_closed(node: Node) -> str | None:
    if node.lost:
        return "is lost: its worker sends no heartbeat"
    if node.cordoned or node.draining:
        return f"is {'drained' if node.draining else 'cordoned'}: it takes no new instances"
    if node.max_instances == 0:
        return "takes no instances: its VLLM_MAX_INSTANCES is 0"
    return None


def _why_not_meant(node: Node, wanted: Wanted) -> str | None:
    if wanted.node in ("", node.name):
        return None
    return f"is not the node that is wanted, {wanted.node}"


def _labels_missing(node: Node, wanted: Wanted) -> str:
    for name, value in wanted.labels.items():
        if (has := node.labels.get(name)) != value:
            known = f"its label {name} is {has}" if has is not None else f"it has no label {name}"
            return f"does not match: {known}, {name}={value} is wanted"
    return ""


def _why_never_by_gpus(node: Node, wanted: Wanted) -> str | None:
    if not node.gpus:
        return f"has no GPUs, {wanted.gpus} needed" if wanted.on_gpus else None
    if wanted.on_gpus is False:
        return "has GPUs, a node without is wanted"
    if wanted.uuids:
        known = {gpu.uuid for gpu in node.gpus}
        if absent := [uuid for uuid in wanted.uuids if uuid not in known]:
            return f"does not have {', '.join(absent)}"
    if len(node.gpus) < wanted.gpus:
        return f"has {len(node.gpus)} GPUs, {wanted.gpus} needed"
    if len(whole := _usable(node, wanted)) < wanted.gpus:
        parts = len(node.gpus) - len(whole)
        return (
            f"has {len(whole)} whole GPUs, {wanted.gpus} needed: {parts} are MIG devices, "
            "of which an engine takes one at most"
        )
    return None


def _why_full(node: Node, wanted: Wanted) -> str | None:
    if node.free_slots == 0:
        return f"runs {len(node.claims)} of at most {node.max_instances} instances"
    free = len(gpus_with_room(node, wanted))
    if not node.gpus or free >= wanted.gpus:
        return None
    held = node.held
    told = [
        f"GPU {gpu.index} {_why_gpu_full(gpu, held.get(gpu.uuid, 0), wanted)}"
        for gpu in _named(node, wanted)
        if not _has_room(gpu, held.get(gpu.uuid, 0), wanted)
    ]
    more = f" and {len(told) - _GPUS_TOLD} more" if len(told) > _GPUS_TOLD else ""
    whole = wanted.thousandths == WHOLE
    share = "" if whole else f" for {wanted.share:.4g} of their memory"
    return (
        f"has {free} of {len(node.gpus)} GPUs with room{share}, {wanted.gpus} needed: "
        f"{', '.join(told[:_GPUS_TOLD])}{more}"
    )


def _usable(node: Node, wanted: Wanted) -> Sequence[Gpu]:
    if wanted.gpus == 1:
        return node.gpus
    return [gpu for gpu in node.gpus if not gpu.is_part]


def _named(node: Node, wanted: Wanted) -> Sequence[Gpu]:
    usable = _usable(node, wanted)
    if not wanted.uuids:
        return usable
    return [gpu for gpu in usable if gpu.uuid in wanted.uuids]


def _has_room(gpu: Gpu, claimed: int, wanted: Wanted) -> bool:
    if claimed and claimed + wanted.thousandths > WHOLE:
        return False
    return _left_mib(gpu, claimed) >= wanted.share * gpu.total_mib - 1


def _left_mib(gpu: Gpu, claimed: int) -> float:
    # vLLM takes its share of all memory, and refuses to start where less is free. What is claimed
    # counts as taken: of an engine that starts, the driver does not see all of it yet.
    unclaimed = gpu.total_mib * (1 - claimed / WHOLE) - gpu.foreign_mib
    return unclaimed if gpu.free_mib is None else min(unclaimed, gpu.free_mib)


def _why_gpu_full(gpu: Gpu, claimed: int, wanted: Wanted) -> str:
    if claimed + wanted.thousandths > WHOLE:
        return f"has {claimed / WHOLE:.3g} of it claimed"
    left, needed = max(0, _left_mib(gpu, claimed)), wanted.share * gpu.total_mib
    others = f", {gpu.foreign_mib} MiB held by other processes" if gpu.foreign_mib else ""
    return f"has {left:.0f} of {gpu.total_mib} MiB left, {needed:.0f} needed{others}"
