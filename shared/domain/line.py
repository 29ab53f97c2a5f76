"""The line of instances that wait for a place: who is served next, and where the others stand.

In line: by priority, higher first; of the same, the oldest first. Nobody overtakes for good: for
each one that finds no room, the node that is nearest to having it is kept free of those behind.
That node can only come nearer, so everybody is served in the end; all other nodes stay open to
whoever fits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.domain.expiry import due_at
from shared.domain.fit import gpus_with_room, why_never, why_not, without
from shared.domain.instance import Desired, Instance, Status
from shared.domain.node import Claim, Node
from shared.domain.placement import Placement, Rule, find_placement
from shared.domain.wanted import WHOLE

_MOST_LEAVING = 50
"""Looked at for one expectation: one that needs more to leave first is far away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a look at the line comes to."""

    placed: Mapping[str, Placement] = field(default_factory=dict)  # id → where there is room now
    short: tuple[str, ...] = ()  # those that want others stopped for them, in line
    overdue: tuple[str, ...] = ()  # those with a reservation that nobody makes room for any more
    kept: Mapping[str, str] = field(default_factory=dict)  # node → who it is kept free for


def serve(
    waiting: Sequence[Instance],
    nodes: Iterable[Node],
    leaving: Collection[str],
    *,
    rule: Rule = Rule.PACK,
) -> Served:
    """Return who of the line gets which place now, and for whom which node is kept free.

    Pure. Whoever places them claims each, and leaves out those where another was faster.

    Args:
        waiting: in line.
        nodes: all of the fleet, with their claims; reservations are claims, too.
        leaving: ids of instances that are about to give back what they claim.
        rule: which of several places is taken.
    """
    now = {node.name: node for node in nodes}
    placed: dict[str, Placement] = {}
    kept: dict[str, str] = {}
    short: list[str] = []
    overdue: list[str] = []
    full: dict[tuple[object, ...], list[str]] = {}  # what finds no place → nodes, nearest first
    for one in waiting:
        name, kind = one.instance_id, one.wanted.place
        if one.reserved:
            reserved = _reserved_place(one, now.get(one.reserved.node), leaving)
            if reserved is None:
                overdue.append(name)
            elif why_not_yet(one, now[reserved.node]) is None:
                placed[name] = reserved
            continue
        place = None
        if kind not in full:
            place = find_placement(
                now.values(), one.wanted, model_name=one.model_name, rule=rule, ahead=kept
            )
        if place:
            placed[name] = place
            now[place.node] = _with_claim(now[place.node], name, place)
            continue
        if kind not in full:
            full[kind] = nearest_nodes(one, now.values())
        if nearest := next((node for node in full[kind] if node not in kept), None):
            kept[nearest] = name
        if one.wanted.evict:
            short.append(name)
    return Served(placed=placed, short=tuple(short), overdue=tuple(overdue), kept=kept)


def kept_free(
    waiting: Sequence[Instance], nodes: Iterable[Node], *, priority: int
) -> dict[str, str]:
    """Return which nodes a new instance may not have, because somebody ahead of it waits for them.

    Args:
        waiting: in line.
        nodes: all of the fleet, with their claims.
        priority: of the new instance, which comes behind all of the same one.
    """
    ahead = [one for one in waiting if one.wanted.priority >= priority]
    return dict(serve(ahead, nodes, ()).kept) if ahead else {}


def nearest_nodes(one: Instance, nodes: Iterable[Node]) -> list[str]:
    """Return the nodes that could have room for the instance, those first that lack least."""
    possible = [node for node in nodes if why_never(node, one.wanted) is None]
    return [name for _, name in sorted((_lacking(node, one), node.name) for node in possible)]


def expected_at(
    line: Sequence[Instance], nodes: Iterable[Node], holders: Collection[Instance], now: float
) -> tuple[float, Placement] | None:
    """Return when and where the last of `line` gets a place if nobody uses what runs until then.

    None where nobody can say: then too much would have to go, or what is pinned.

    Args:
        line: who waits, in line; up to the one that is asked about.
        nodes: all of the fleet, with their claims.
        holders: the instances that hold those claims, as far as they are known.
        now: epoch seconds, by the clock of their times.
    """
    asked = line[-1].instance_id
    by_name = {node.name: node for node in nodes}
    leaves = sorted(
        (at, one.node, one.instance_id)
        for one in holders
        if (at := _leaves_at(one, now)) is not None
    )
    left = list(line)
    for at, node, name in [(now, "", ""), *leaves[:_MOST_LEAVING]]:
        if node in by_name:
            by_name[node] = without(by_name[node], [name])
        placed = serve(left, by_name.values(), ()).placed
        if asked in placed:
            return at, placed[asked]
        left = [one for one in left if one.instance_id not in placed]
        for name_of, place in placed.items():
            by_name[place.node] = _with_claim(by_name[place.node], name_of, place)
    return None


def is_leaving(instance: Instance) -> bool:
    """Return whether the instance is about to give back what it claims."""
    return instance.desired is Desired.STOPPED and instance.status is not Status.STOP_FAILED


def why_not_yet(one: Instance, node: Node) -> str | None:
    """Return why the node has no room yet for one that has a reservation there; None if it has."""
    if one.reserved is None:
        return "nothing is reserved for it"
    wanted = replace(one.wanted, uuids=one.reserved.gpus) if one.reserved.shares else one.wanted
    return why_not(_without_reservation(node, one), wanted)


def _reserved_place(one: Instance, node: Node | None, leaving: Collection[str]) -> Placement | None:
    """Return what is reserved, while it is there or somebody is about to leave it."""
    if one.reserved is None or node is None:
        return None
    held = {claim.instance_id for claim in node.claims}
    if one.instance_id not in held:  # the reservation was lost
        return None
    in_time = without(node, [name for name in leaving if name in held])
    return one.reserved if why_not_yet(one, in_time) is None else None


def _without_reservation(node: Node, one: Instance) -> Node:
    claims = tuple(claim for claim in node.claims if claim.instance_id != one.instance_id)
    return replace(node, claims=claims)


def _lacking(node: Node, one: Instance) -> int:
    """Return how much has to be given back, in thousandths of a GPU; one instance counts as one."""
    slots = 0 if node.free_slots else 1
    if not node.gpus:
        return slots
    held = node.held
    named = [gpu.uuid for gpu in node.gpus if not one.wanted.uuids or gpu.uuid in one.wanted.uuids]
    over = sorted(max(0, held.get(uuid, 0) + one.wanted.thousandths - WHOLE) for uuid in named)
    lacking = sum(over[: one.wanted.gpus])
    memory = one.wanted.gpus - len(gpus_with_room(node, one.wanted))
    return max(slots, lacking, memory)


def _leaves_at(instance: Instance, now: float) -> float | None:
    if is_leaving(instance):
        return now
    at = due_at(instance)
    return None if at is None else max(now, at)


def _with_claim(node: Node, name: str, place: Placement) -> Node:
    others = tuple(claim for claim in node.claims if claim.instance_id != name)
    return replace(node, claims=(*others, Claim(instance_id=name, shares=place.shares)))
