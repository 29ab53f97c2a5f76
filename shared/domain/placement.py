"""Where a new instance runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heappop

from shared.domain.fit import fits, gpus_with_room, why_not
from shared.domain.node import Node
from shared.domain.wanted import Wanted
from shared.errors import NoCapacity

_PLACE_BITS = 20
_PLACE = (1 << _PLACE_BITS) - 1  # more nodes than there are
_NO_WEIGHTS, _NO_GPUS = 1 << 30, 1 << 31  # more thousandths than a node has
_TOLD = 50  # nodes, in the reason of a refusal: `dry_run` tells of each


class Rule(StrEnum):
    """Which of the places with room is taken."""

    PACK = "pack"  # the fullest, so that large holes stay large
    SPREAD = "spread"  # the emptiest, so that instances have as much as possible for themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A node, and what of its GPUs the instance gets."""

    node: str
    shares: Mapping[str, int] = field(default_factory=dict)  # UUID → thousandths, by index

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of the GPUs, by index."""
        return tuple(self.shares)


def choose_placement(
    nodes: Iterable[Node],
    wanted: Wanted,
    *,
    model_name: str = "",
    rule: Rule = Rule.PACK,
    ahead: Mapping[str, str] | None = None,
) -> Placement:
    """Pick the node that a new instance goes to, and GPUs of it.

    GPU nodes come before those without, those that hold the weights before those that do not, then
    as `rule` says. Nodes without GPUs only count instances, and there the emptiest comes first
    whatever the rule, because instances share its cores.

    Pure: claims nothing. The caller claims the result atomically and calls again if another
    caller was faster.

    Args:
        nodes: all of the fleet, with their claims.
        wanted: what the instance asks.
        model_name: whose weights some nodes may hold.
        rule: which of several is taken.
        ahead: nodes that one further ahead in the line waits for: name → that instance's id.

    Raises:
        NoCapacity: no node has room; says why for each.
    """
    known = sorted(nodes, key=lambda node: node.name)
    place = find_placement(known, wanted, model_name=model_name, rule=rule, ahead=ahead)
    if place is None:
        raise NoCapacity(no_room(verdicts(known, wanted, ahead=ahead)))
    return place


def find_placement(
    nodes: Iterable[Node],
    wanted: Wanted,
    *,
    model_name: str = "",
    rule: Rule = Rule.PACK,
    ahead: Mapping[str, str] | None = None,
) -> Placement | None:
    """Return the place as `choose_placement` does; None where no node has room.

    It looks at few of many nodes, which are to come by name: at the preferred ones, up to the first
    that has room.
    """
    among = list(nodes)
    way = -1 if rule is Rule.SPREAD else 1
    # In one number each, with the place in the list below: a creation does this for every node.
    preferred = [
        (way * node.free_in_all if node.gpus else _NO_GPUS - node.free_slots)
        + (0 if model_name in node.models else _NO_WEIGHTS)
        << _PLACE_BITS
        | at
        for at, node in enumerate(among)
    ]
    heapify(preferred)  # all but a few of many nodes need not be in order
    waited_for = ahead or {}
    while preferred:
        node = among[heappop(preferred) & _PLACE]
        if node.name not in waited_for and fits(node, wanted):
            return place_on(node, wanted, rule)
    return None


def place_on(node: Node, wanted: Wanted, rule: Rule = Rule.PACK) -> Placement:
    """Return the place of an instance on a node that has room for it."""
    held = node.held
    way = 1 if rule is Rule.SPREAD else -1
    free = gpus_with_room(node, wanted)
    chosen = sorted(free, key=lambda gpu: (way * held.get(gpu.uuid, 0), gpu.index))[: wanted.gpus]
    by_index = sorted(chosen, key=lambda gpu: gpu.index)
    return Placement(node=node.name, shares={gpu.uuid: wanted.thousandths for gpu in by_index})


def verdicts(
    nodes: Iterable[Node], wanted: Wanted, *, ahead: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """Return for each node why it does not take the instance; None for those that would."""
    waited_for = ahead or {}
    return {node.name: why_not(node, wanted) or _why_behind(node, waited_for) for node in nodes}


def why_second(node: Node, best: Node, *, model_name: str, rule: Rule) -> str:
    """Return why `best` is taken and not `node`, which has room, too."""
    mine, its = (_preference(one, model_name, rule) for one in (node, best))
    if its[0] < mine[0]:
        why = "has GPUs"
    elif its[1] < mine[1]:
        why = "holds the weights already"
    elif its[2] < mine[2]:
        emptier = not best.gpus or rule is Rule.SPREAD
        why = "is emptier" if emptier else "is fuller, and large holes are to stay large"
    else:
        why = "is first by name"
    return f"has room, but {best.name} comes first: it {why}"


def no_room(refusals: Mapping[str, str | None]) -> str:
    """Return the whole reason: what each node's is."""
    if not refusals:
        return "no node has room: no worker has registered yet"
    told = [f"{name} {why}" for name, why in refusals.items() if why]
    more = f"; and {len(told) - _TOLD} more nodes" if len(told) > _TOLD else ""
    return f"no node has room: {'; '.join(told[:_TOLD])}{more}"


def _why_behind(node: Node, ahead: Mapping[str, str]) -> str | None:
    by = ahead.get(node.name)
    return f"is waited for by {by}, which is ahead in the line" if by else None


def _preference(node: Node, model_name: str, rule: Rule) -> tuple[bool, bool, int, str]:
    lacks_weights = model_name not in node.models
    if not node.gpus:
        return (True, lacks_weights, -node.free_slots, node.name)
    free = node.free_in_all
    return (False, lacks_weights, -free if rule is Rule.SPREAD else free, node.name)
