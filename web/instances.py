"""/instances: create, list, look, stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from http import HTTPStatus
from time import monotonic

from flask import Blueprint, Response, g, jsonify, request, url_for

from shared.domain import params
from shared.domain.instance import SETTLED, Instance, Status, new_instance_id
from shared.domain.node import Node
from shared.domain.placement import Placement, choose_placement
from shared.domain.policy import Policy
from shared.errors import InvalidRequest, NoCapacity, StoreUnavailable
from shared.queue import Doorbells
from shared.settings import Settings
from shared.store import Once, Store
from web import schemas
from web.caller import caller_socket, is_gone
from web.forgetting import forget, lost_node
from web.idempotency import HEADER, REPLAYED, made_before, once_of
from web.records import absent, known
from web.routing import RoutingTable
from web.schemas import CreateRequest

_MAX_BODY = 1024 * 1024  # bytes; a chat template fits
_CLAIM_TRIES = 10  # lost races for a place, before we say there is none
_LOOK_FOR_CALLER_S = 1.0  # while waiting on a caller's behalf
_HIDDEN = frozenset({"engine_key", "observed_generation", "boot_id", "start_time"})
_SHOWN = tuple(field.name for field in fields(Instance) if field.name not in _HIDDEN)


class Instances:
    """The REST views of instances."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        doorbells: Doorbells,
        table: RoutingTable,
        policy: Policy,
    ) -> None:
        """Wire the views; `policy` is what requests may ask, on top of what it has for all."""
        self._settings = settings
        self._store = store
        self._doorbells = doorbells
        self._table = table
        self._policy = policy

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("instances", __name__, url_prefix="/instances")
        routes.post("")(self.create)
        routes.get("")(self.list)
        routes.get("/<instance_id>")(self.get)
        routes.delete("/<instance_id>")(self.delete)
        return routes

    def create(self) -> tuple[Response, int, dict[str, str]]:
        """Record a new instance, claim its place, ring its node."""
        request.max_content_length = _MAX_BODY
        asked = schemas.create_request(_whole_body())
        wait_s = schemas.wait_seconds(request.args.get("wait"))
        once = once_of(request.headers.get(HEADER), g.principal, asked)
        instance, is_new = self._create(asked, once)
        self._doorbells.start(instance)
        headers = {"Location": url_for("instances.get", instance_id=instance.instance_id)}
        if not is_new:
            headers[REPLAYED] = "true"
        try:
            instance = self._wait(instance.instance_id, _is_settled, wait_s)
            settled = HTTPStatus.CREATED if is_new else HTTPStatus.OK
            status = settled if _is_settled(instance) else HTTPStatus.ACCEPTED
            return self._shown(instance), status, headers
        except StoreUnavailable:  # it is accepted: a 503 now would have the caller make another
            return jsonify(public(instance, None)), HTTPStatus.ACCEPTED, headers

    def list(self) -> Response:
        """Return id → record of all that are not ended; with ?all=1 of those, too."""
        with_ended = schemas.flag("all", request.args.get("all"))
        nodes = {node.name: node for node in self._store.nodes()}
        found = self._store.instances(with_ended=with_ended)
        return jsonify({i.instance_id: public(i, nodes.get(i.node)) for i in found})

    def get(self, instance_id: str) -> Response:
        """Return the record."""
        return self._shown(known(self._store, instance_id))

    def delete(self, instance_id: str) -> tuple[Response, int]:
        """Ask the instance to stop; say `deleted` once it is verified gone.

        With ?force=1 one whose node is lost is forgotten: nothing of it can be verified.
        """
        wait_s = schemas.wait_seconds(request.args.get("wait"))
        force = schemas.flag("force", request.args.get("force"))
        who = str(g.principal)
        if force and not (asked := known(self._store, instance_id)).ended:
            lost_node(self._store, asked)  # first: what is refused must change nothing
        instance = self._store.stop(instance_id, reason="deleted by request", by="user", who=who)
        if instance is None:
            raise absent(instance_id)
        if force and not instance.ended:
            instance = forget(self._store, instance, who)
        if not instance.ended:
            self._doorbells.stop(instance)
            instance = self._wait(instance_id, converged_since(instance.generation), wait_s)
        if instance.ended:
            return jsonify({"status": "deleted", "instance_id": instance_id}), HTTPStatus.OK
        return self._shown(instance), HTTPStatus.ACCEPTED

    def _create(self, asked: CreateRequest, once: Once | None) -> tuple[Instance, bool]:
        """Return the new instance and True, or the one that was made for `once` and False."""
        if made := made_before(self._store, once):
            return made, False
        self._policy.check(asked.model_name, asked.params, asked.env)
        merged = params.merge(self._policy.base, asked.params)
        timeout = self._settings.vllm_default_timeout_s if asked.timeout is None else asked.timeout
        instance = Instance(
            instance_id=new_instance_id(asked.model_name),
            model_name=asked.model_name,
            params=merged,
            env=asked.env,
            timeout=timeout,
            node="",
        )
        return self._claim(instance, params.gpu_count(merged), once)

    def _claim(
        self, instance: Instance, gpu_count: int, once: Once | None
    ) -> tuple[Instance, bool]:
        """Return the instance as it was placed, or the one that somebody made for `once` meanwhile.

        Raises:
            NoCapacity: no node has room.
            KeyReused: what somebody made for `once` is another.
        """
        for _ in range(_CLAIM_TRIES):
            nodes = self._store.nodes()
            try:
                place: Placement = choose_placement(nodes, gpu_count)
            except NoCapacity:
                if made := made_before(self._store, once):  # it may have taken the last place
                    return made, False
                raise
            placed = replace(instance, node=place.node, gpus=place.gpus)
            most = next(node.max_instances for node in nodes if node.name == place.node)
            if self._store.create(placed, most, who=str(g.principal), once=once):
                return placed, True
            if made := made_before(self._store, once):
                return made, False
        raise NoCapacity("others were faster at every free place; try again")

    def _wait(
        self, instance_id: str, done: Callable[[Instance], bool], timeout_s: float
    ) -> Instance:
        if timeout_s == 0:
            return known(self._store, instance_id)
        caller = caller_socket(request.environ)
        deadline = monotonic() + timeout_s
        while True:
            left = deadline - monotonic()
            instance = self._table.wait_for(instance_id, done, min(left, _LOOK_FOR_CALLER_S))
            if done(instance) or left <= _LOOK_FOR_CALLER_S or is_gone(caller):
                return known(self._store, instance_id)

    def _shown(self, instance: Instance) -> Response:
        return jsonify(public(instance, self._store.node(instance.node)))


def _whole_body() -> bytes:
    body = request.get_data()
    if request.content_length is not None and len(body) < request.content_length:
        raise InvalidRequest(f"body: ended after {len(body)} of {request.content_length} bytes")
    return body


def public(instance: Instance, node: Node | None) -> dict[str, object]:
    """Return the record as callers see it: no secrets, and how its node is."""
    shown: dict[str, object] = {name: getattr(instance, name) for name in _SHOWN}
    return {
        **shown,
        "status": instance.shown_status,
        "exit": str(instance.exit) if instance.exit else None,
        "node_status": _node_status(node),
    }


def _node_status(node: Node | None) -> str:
    if node is None or node.heartbeat_age_s is None:
        return "lost: its worker has stopped"
    return f"lost: silent for {node.heartbeat_age_s:.0f} s" if node.lost else "alive"


def _is_settled(instance: Instance) -> bool:
    return instance.status in SETTLED


def converged_since(generation: int) -> Callable[[Instance], bool]:
    """Return what says whether a stop has come to its end.

    Args:
        generation: of the record as it was asked to stop; what is older, as a routing table may
            have it for a moment, says nothing of this stop.
    """

    def has_converged(instance: Instance) -> bool:
        if instance.generation < generation:
            return False
        if instance.status is Status.STOP_FAILED:  # unless it is to be tried once more
            return instance.observed_generation >= instance.generation
        return instance.ended

    return has_converged
