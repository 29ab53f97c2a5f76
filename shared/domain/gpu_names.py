"""GPUs as callers name them: by UUID, or by node and index."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from shared.domain.node import Node
from shared.errors import InvalidRequest

_AT = re.compile(r"(?P<node>[A-Za-z0-9][A-Za-z0-9._-]{0,62}):(?P<index>[0-9]{1,4})")
_TOLD = 5  # names in one message


def found(names: Iterable[str], nodes: Collection[Node]) -> tuple[str, tuple[str, ...]]:
    """Return the node that has all of the GPUs that are named, and their UUIDs.

    Args:
        names: UUIDs, or NODE:INDEX.
        nodes: all of the fleet.

    Raises:
        InvalidRequest: there is no such GPU, one is named twice, or they are of several nodes.
    """
    on: dict[str, str] = {}  # UUID → node
    for name in names:
        node, uuid = _one(name, nodes)
        if uuid in on:
            raise InvalidRequest(f"gpus: {name} is named twice", field="gpus")
        on[uuid] = node
    if len(set(on.values())) > 1:
        spread = ", ".join(sorted(set(on.values())))
        raise InvalidRequest(
            f"gpus: they are of several nodes, {spread}; an instance runs on one", field="gpus"
        )
    return next(iter(on.values())), tuple(on)


def _one(name: str, nodes: Collection[Node]) -> tuple[str, str]:
    at = _AT.fullmatch(name)
    for node in nodes:
        for gpu in node.gpus:
            by_place = at and at["node"] == node.name and int(at["index"]) == gpu.index
            if by_place or gpu.uuid == name:
                return node.name, gpu.uuid
    known = [f"{node.name}:{gpu.index}" for node in nodes for gpu in node.gpus]
    told = ", ".join(known[:_TOLD]) + (f" and {len(known) - _TOLD} more" if known[_TOLD:] else "")
    raise InvalidRequest(
        f"gpus: there is no GPU {name}; there are {told or 'none'}; GET /nodes lists them",
        field="gpus",
    )
