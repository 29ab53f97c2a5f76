"""Making a new instance: merged, allowed, placed, recorded and claimed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from shared.domain import gpu_names, params
from shared.domain.fit import why_unfit
from shared.domain.instance import Instance, new_instance_id
from shared.domain.line import kept_free
from shared.domain.node import Node
from shared.domain.placement import Placement, find_placement, no_room, verdicts
from shared.domain.policy import Policy
from shared.domain.wanted import Wanted
from shared.errors import InvalidRequest, NoCapacity
from shared.placing import LOOKED_AT, Placing, ring_victims, room_for
from shared.queue import Doorbells
from shared.settings import Settings
from shared.store import Once, Room, Store
from web.control.idempotency import made_before
from web.control.schemas import CreateRequest
from web.tables.node_table import NodeTable

_CLAIM_TRIES = 100  # lost races, each to another creation: then we say there is no place


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a new instance, as the fleet is now."""

    placement: Placement | None = None  # where there is room
    room: Room | None = None  # where idle ones make room
    waits: bool = False  # in line
    refusals: Mapping[str, str | None] = field(default_factory=dict)  # where no node has room: why
    ahead: Mapping[str, str] = field(default_factory=dict)  # nodes that are kept free for others

    @property
    def reason(self) -> str:
        """Why there is no room."""
        return no_room(self.refusals)


class Creation:
    """Makes instances: for callers of REST, and for models of the catalogue that are asked for."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        doorbells: Doorbells,
        policy: Policy,
        nodes: NodeTable,
    ) -> None:
        """Wire it; `policy` is what requests may ask, on top of what it has for all."""
        self._settings = settings
        self._store = store
        self._doorbells = doorbells
        self._nodes = nodes
        self._placing = Placing.of(settings)
        self.policy = policy
        self.default_timeout = settings.vllm_default_timeout_s

    def create(
        self, asked: CreateRequest, *, who: str, once: Once | None = None, catalogue: str = ""
    ) -> tuple[Instance, bool]:
        """Record a new instance, claim its place and ring its node; or have it wait in line.

        Return it and True, or the one that was made for `once` before, and False.

        Args:
            asked: the spec, and what it asks of its place.
            who: asks, for the events.
            once: of creations with the same name, one is made in a day.
            catalogue: name of the catalogue's model that it is made for.

        Raises:
            InvalidRequest: the policy does not allow it, or it asks for GPUs that there are not.
            KeyReused: what was made for `once` is another.
            NoCapacity: there is no room, and it is not to wait, or will never have any.
            StoreUnavailable: try again.
        """
        if made := made_before(self._store, once):
            return made, False
        instance, is_new = self._claim(self.instance(asked, catalogue), who, once)
        self._doorbells.start(instance)
        return instance, is_new

    def instance(self, asked: CreateRequest, catalogue: str = "") -> Instance:
        """Return the instance that is asked for, without a place.

        Raises:
            InvalidRequest: as `create`.
            StoreUnavailable: GPUs are named, and nobody can say which those are.
        """
        self.policy.check(asked.model_name, asked.params, asked.env)
        merged = params.merge(self.policy.base, asked.params)
        node, uuids, gpus = self._asked_gpus(asked)
        if gpus:
            merged = params.for_gpus(merged, asked.params, gpus)
        timeout = self.default_timeout if asked.timeout is None else asked.timeout
        return Instance(
            instance_id=new_instance_id(asked.model_name),
            model_name=asked.model_name,
            params=merged,
            env=asked.env,
            timeout=timeout,
            node="",
            wanted=Wanted(
                gpus=params.gpu_count(merged),
                on_gpus=None if gpus is None else bool(gpus),
                uuids=uuids,
                share=params.gpu_share(merged),
                node=node,
                labels=asked.labels,
                queue=asked.queue,
                evict=asked.evict,
                priority=asked.priority,
            ),
            catalogue=catalogue,
        )

    def decide(self, instance: Instance) -> Decision:
        """Return what becomes of a new instance, as the fleet is now; changes nothing.

        Raises:
            StoreUnavailable: nobody can say.
        """
        nodes, wanted = self._fresh_nodes(), instance.wanted
        line = self._store.waiting(LOOKED_AT)
        ahead = kept_free(line, nodes, priority=wanted.priority)
        place = find_placement(
            nodes,
            wanted,
            model_name=instance.model_name,
            rule=self._placing.rule,
            ahead=ahead,
        )
        if place is not None:
            return Decision(placement=place, ahead=ahead)
        known = Decision(refusals=verdicts(nodes, wanted, ahead=ahead), ahead=ahead)
        open_to_it = [node for node in nodes if node.name not in ahead]
        if wanted.evict and (room := room_for(self._store, open_to_it, instance, self._placing)):
            return replace(known, room=room)
        return replace(known, waits=wanted.queue and _may_ever_fit(nodes, wanted))

    def _claim(self, instance: Instance, who: str, once: Once | None) -> tuple[Instance, bool]:
        """Return the instance as it was placed, or the one that somebody made for `once` meanwhile.

        Raises:
            NoCapacity: no node has room.
            KeyReused: what somebody made for `once` is another.
        """
        for _ in range(_CLAIM_TRIES):
            decision = self.decide(instance)
            placed = _as_decided(instance, decision)
            if placed is None:
                if made := made_before(self._store, once):  # it may have taken the last place
                    return made, False
                raise NoCapacity(decision.reason)
            if self._store.create(
                placed, self._most(decision), who=who, once=once, room=decision.room
            ):
                if decision.room:
                    ring_victims(self._store, self._doorbells, decision.room)
                return placed, True
            if made := made_before(self._store, once):
                return made, False
        raise NoCapacity("no node has room: others were faster at every free place; try again")

    def _most(self, decision: Decision) -> int:
        place = decision.placement or (decision.room and decision.room.placement)
        node = self._nodes.get(place.node) if place else None
        return node.max_instances if node else 0

    def _fresh_nodes(self) -> list[Node]:
        self._nodes.refresh()  # costs what has changed
        return self._nodes.nodes()

    def _asked_gpus(self, asked: CreateRequest) -> tuple[str, tuple[str, ...], int | None]:
        """Return the node that is asked for, the UUIDs of GPUs that are, and how many."""
        if not isinstance(asked.gpus, tuple):
            return asked.node, (), asked.gpus
        node, uuids = gpu_names.found(asked.gpus, self._fresh_nodes())
        if asked.node not in ("", node):
            raise InvalidRequest(
                f"gpus: they are of node {node}, not of {asked.node}", field="gpus"
            )
        return node, uuids, len(uuids)


def _as_decided(instance: Instance, decision: Decision) -> Instance | None:
    if place := decision.placement:
        return replace(instance, node=place.node, gpus=place.gpus)
    if decision.room:
        return replace(instance, reserved=decision.room.placement, reason=decision.reason)
    return replace(instance, reason=decision.reason) if decision.waits else None


def _may_ever_fit(nodes: Collection[Node], wanted: Wanted) -> bool:
    """Return whether some node could take it, also one that is lost or cordoned now."""
    return not nodes or any(why_unfit(node, wanted) is None for node in nodes)
