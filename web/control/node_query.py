"""Which nodes a list is to have: arguments of GET /nodes, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shared.domain.node import Node
from shared.errors import InvalidRequest

_STATUSES: Mapping[str, Callable[[Node], bool]] = {
    "alive": lambda node: not node.lost,
    "lost": lambda node: node.lost,
    "cordoned": lambda node: node.cordoned,
    "draining": lambda node: node.draining,
    "drained": lambda node: node.drained,
}


def node_query(args: Mapping[str, str]) -> Callable[[Node], bool]:
    """Return which nodes a list is to have, from `?status=` and `?label=NAME=VALUE`.

    Raises:
        InvalidRequest: no node could ever be so.
    """
    status, label = args.get("status"), args.get("label")
    if status is not None and status not in _STATUSES:
        raise InvalidRequest(
            f"status: {status!r} is none of {', '.join(_STATUSES)}", field="status"
        )
    name, equals, value = (label or "").partition("=")
    if label is not None and not (name and equals):
        raise InvalidRequest(f"label: {label!r} must be NAME=VALUE, like zone=a", field="label")

    def picks(node: Node) -> bool:
        labelled = label is None or node.labels.get(name) == value
        return labelled and (status is None or _STATUSES[status](node))

    return picks
