"""Serves the line: gives places to instances that wait, and has idle ones make room for them.

Everything here may run twice, in several processes at once, and be lost: each step is decided anew
and checked again where it is taken.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from shared.domain.eviction import QUIET_S, choose_victims
from shared.domain.fit import why_never
from shared.domain.instance import Instance
from shared.domain.line import is_leaving, serve
from shared.domain.node import Node
from shared.domain.placement import Rule
from shared.errors import StoreUnavailable
from shared.queue import Doorbells
from shared.settings import Settings
from shared.store import Room, Store

LOOKED_AT = 100
"""Of the line, at a time: those further behind have their turn once these have been served."""

_CANDIDATES = 1_000  # instances that are looked at for room, those first that expire next
_ROUNDS = 3  # of one look at the line: what is given up in one round is decided in the next
_LONGEST_LOOK_S = 10.0  # after which another process may look, too
_PAUSE_S = 0.2  # between two looks: in a busy fleet, claims are released all the time
_LONGEST_TURN_S = 1.0  # to wait for; beat looks every few seconds, too
_LEASE, _NEXT = "line", "line-next"
_NEVER = threading.Event()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """What an operator says of placing instances."""

    rule: Rule
    evict_after_s: float  # since it became ready, an idle instance may be stopped for another one

    @classmethod
    def of(cls, settings: Settings) -> Placing:
        """Return what the settings say."""
        return cls(rule=Rule(settings.placement), evict_after_s=settings.evict_after_s)


def serve_line(store: Store, doorbells: Doorbells, placing: Placing, *, who: str) -> list[str]:
    """Give those of the line a place for whom there is room; return their ids.

    One process does so at a time, and one waits for its turn, a second at most. Who comes beside
    them has nothing to do: the next look has not begun yet, and will see all there is.

    Args:
        store: has the line.
        doorbells: of the nodes.
        placing: what the operator says.
        who: serves, for the events.

    Raises:
        StoreUnavailable: who was not served yet is by the next call.
    """
    if not store.line_length():
        return []
    holder = f"{who} {uuid.uuid4()}"
    if not _has_turn(store, holder):
        return []
    placed: list[str] = []
    for _ in range(_ROUNDS):
        served, more = _serve_once(store, doorbells, placing, who)
        placed += served
        if not more:
            break
    store.lease(_LEASE, holder, _PAUSE_S)
    return placed


def room_for(
    store: Store, nodes: Collection[Node], instance: Instance, placing: Placing
) -> Room | None:
    """Return which idle instances make room for another one, and where; None if none can.

    Reads up to a thousand records; changes nothing.

    Args:
        store: of the records.
        nodes: those that it may go to, with their claims.
        instance: the other one.
        placing: what the operator says.

    Raises:
        StoreUnavailable: nobody can say.
    """
    possible = [node for node in nodes if why_never(node, instance.wanted) is None]
    return _room_among(possible, candidates(store, possible), instance, placing, store.now())


def candidates(store: Store, nodes: Collection[Node]) -> list[Instance]:
    """Return instances of these nodes that may make room: all, or those that expire next."""
    held = [claim.instance_id for node in nodes for claim in node.claims]
    if len(held) > _CANDIDATES:
        return store.soonest_due(_CANDIDATES)
    return [one for one in store.several(held).values() if one]


def ring_for_line(store: Store, doorbells: Doorbells) -> None:
    """Have the line served, should somebody wait; never raises: beat looks after it, too."""
    with suppress(StoreUnavailable):
        if store.line_length():
            doorbells.line()


def ring_victims(store: Store, doorbells: Doorbells, room: Room) -> None:
    """Tell the nodes of those who make room."""
    for victim in store.several(room.victims).values():
        if victim is not None:
            doorbells.stop(victim)


def _has_turn(store: Store, holder: str) -> bool:
    """Wait to be the one who serves; return False where another does, and one is next."""
    if store.lease(_LEASE, holder, _LONGEST_LOOK_S):
        return True
    if not store.lease(_NEXT, holder, _LONGEST_TURN_S):
        return False
    deadline = monotonic() + _LONGEST_TURN_S
    while monotonic() < deadline:
        _NEVER.wait(_PAUSE_S / 4)
        if store.lease(_LEASE, holder, _LONGEST_LOOK_S):
            store.end_lease(_NEXT, holder)
            return True
    return False


def _serve_once(
    store: Store, doorbells: Doorbells, placing: Placing, who: str
) -> tuple[list[str], bool]:
    """Return who was placed, and whether there is more to decide at once."""
    waiting = store.waiting(LOOKED_AT)
    nodes = {node.name: node for node in store.nodes()}
    leaving = _leaving(store, waiting, nodes)
    served = serve(waiting, nodes.values(), leaving, rule=placing.rule)
    for name in served.overdue:
        store.give_up_room(name)
    placed, lost_race = [], False
    for name, place in served.placed.items():
        if store.place(name, place, nodes[place.node].max_instances, who=who):
            placed.append(name)
            log.info("instance %s: placed on %s", name, place.node)
            if instance := store.several([name]).get(name):
                doorbells.start(instance)
        else:
            lost_race = True
    short = [one for one in waiting if one.instance_id in served.short]
    _make_room(store, doorbells, placing, who, short=short, kept=served.kept)
    return placed, lost_race or bool(served.overdue)


def _make_room(
    store: Store,
    doorbells: Doorbells,
    placing: Placing,
    who: str,
    *,
    short: Collection[Instance],
    kept: Mapping[str, str],
) -> None:
    """Have idle instances stopped for those that may ask for it, in line."""
    if not short:
        return
    nodes, now = store.nodes(), store.now()
    idle: dict[tuple[object, ...], list[Instance]] = {}  # read once for all that want the same
    for one in short:
        name, kind = one.instance_id, one.wanted.place
        open_to_it = [node for node in nodes if kept.get(node.name, name) == name]
        if kind not in idle:
            possible = [node for node in nodes if why_never(node, one.wanted) is None]
            idle[kind] = candidates(store, possible)
        room = _room_among(open_to_it, idle[kind], one, placing, now)
        if room and store.make_room(name, room, who=who):
            log.info("instance %s: %s", name, room.reason)
            ring_victims(store, doorbells, room)
            nodes = [node for node in nodes if node.name != room.placement.node]  # till next time


def _room_among(
    nodes: Collection[Node],
    idle: Collection[Instance],
    instance: Instance,
    placing: Placing,
    now: float,
) -> Room | None:
    eviction = choose_victims(
        nodes,
        instance.wanted,
        idle,
        now,
        min_ready_s=placing.evict_after_s,
        rule=placing.rule,
    )
    if eviction is None:
        return None
    most = next(node.max_instances for node in nodes if node.name == eviction.placement.node)
    return Room(
        placement=eviction.placement,
        max_instances=most,
        victims=eviction.victims,
        quiet_s=QUIET_S,
        min_ready_s=placing.evict_after_s,
    )


def _leaving(store: Store, waiting: Collection[Instance], nodes: dict[str, Node]) -> set[str]:
    reserved = {one.reserved.node for one in waiting if one.reserved} & nodes.keys()
    holders = [claim.instance_id for name in reserved for claim in nodes[name].claims]
    found = store.several(holders) if holders else {}
    # One whose record is gone is as good as gone itself: its claim is released in the same step.
    return {name for name, one in found.items() if one is None or is_leaving(one)}
