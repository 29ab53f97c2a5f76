"""Which idle instances are stopped to make room for another one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shared.domain.fit import fits, why_never, without
from shared.domain.instance import Instance
from shared.domain.node import Node
from shared.domain.placement import Placement, Rule, place_on
from shared.domain.wanted import Wanted

QUIET_S = 3.0
"""Not used for so long, an instance is idle: use is reported each second, and may be late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """Who has to go, and the place that is free then."""

    victims: tuple[str, ...]  # ids, the longest idle first
    placement: Placement


def may_be_evicted(
    instance: Instance, now: float, *, min_ready_s: float, priority: int, quiet_s: float = QUIET_S
) -> bool:
    """Return whether the instance may be stopped for another one.

    It runs, is not pinned (`timeout` 0), nobody uses it, it has been ready for a while, and is not
    more important.

    Args:
        instance: it.
        now: epoch seconds, by the clock of its times.
        min_ready_s: since it became ready: what has just been loaded is not thrown out.
        priority: of the one that needs room.
        quiet_s: for which it has not been used.
    """
    if not instance.serving or instance.timeout == 0 or instance.wanted.priority > priority:
        return False
    if instance.ready_at is None or now - instance.ready_at < min_ready_s:
        return False
    return now - _last_used(instance) >= quiet_s


def choose_victims(
    nodes: Iterable[Node],
    wanted: Wanted,
    instances: Collection[Instance],
    now: float,
    *,
    min_ready_s: float,
    rule: Rule = Rule.PACK,
) -> Eviction | None:
    """Pick the idle instances that are stopped for a new one; None if that would not make room.

    Of all nodes, the one where the most recently used victim has been idle for the longest; there,
    the longest idle first, and none that need not go. Equals: fewer victims, then by name.

    Pure. Whoever stops them checks each again in the step that does.

    Args:
        nodes: all of the fleet, with their claims.
        wanted: what the new instance asks.
        instances: those that could go, of any node; the others are left out by this.
        now: epoch seconds, by the clock of their times.
        min_ready_s: see `may_be_evicted`.
        rule: which GPUs of the node are taken.
    """
    by_node: dict[str, list[Instance]] = {}
    for one in sorted(instances, key=lambda one: (_last_used(one), one.instance_id)):
        if may_be_evicted(one, now, min_ready_s=min_ready_s, priority=wanted.priority):
            by_node.setdefault(one.node, []).append(one)
    found: list[tuple[float, int, str, Eviction]] = []
    for node in nodes:
        if victims := _fewest(node, wanted, by_node.get(node.name, [])):
            names = tuple(one.instance_id for one in victims)
            place = place_on(without(node, names), wanted, rule)
            eviction = Eviction(victims=names, placement=place)
            found.append((_last_used(victims[-1]), len(victims), node.name, eviction))
    return min(found, key=lambda option: option[:3])[3] if found else None


def _fewest(node: Node, wanted: Wanted, idle: list[Instance]) -> list[Instance]:
    """Return who of the node has to go, the longest idle first; [] if all of them do not help."""
    if not idle or why_never(node, wanted) or fits(node, wanted):
        return []
    victims: list[Instance] = []
    for one in idle:
        victims.append(one)
        if _has_room(node, wanted, victims):
            break
    else:
        return []
    for one in reversed(victims[:-1]):  # without the last one there was no room
        fewer = [other for other in victims if other is not one]
        if _has_room(node, wanted, fewer):
            victims = fewer
    return victims


def _has_room(node: Node, wanted: Wanted, victims: list[Instance]) -> bool:
    return fits(without(node, [one.instance_id for one in victims]), wanted)


def _last_used(instance: Instance) -> float:
    return instance.last_active or instance.ready_at or 0.0
