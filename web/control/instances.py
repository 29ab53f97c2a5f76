"""/instances: create, list, look, stop."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from urllib.parse import urlencode

from flask import Blueprint, Response, g, jsonify, request, url_for

from shared.domain.instance import SETTLED, Instance, Status
from shared.errors import InvalidRequest, StoreUnavailable
from shared.placing import ring_for_line
from shared.queue import Doorbells
from shared.settings import Settings
from shared.store import Store
from web.control import arguments, dry_run, schemas
from web.control.creation import Creation
from web.control.forgetting import forget, lost_node
from web.control.idempotency import HEADER, REPLAYED, once_of
from web.control.instance_view import public
from web.control.schemas import CreateRequest
from web.control.standing import Standings
from web.http.caller import caller_socket, is_gone
from web.tables.node_table import NodeTable
from web.tables.records import absent, known
from web.tables.routing import RoutingTable

_MAX_BODY = 1024 * 1024  # bytes; a chat template fits
_LOOK_FOR_CALLER_S = 1.0  # while waiting on a caller's behalf
_READ_AT_ONCE = 500  # records, where a whole list is asked for


class Instances:
    """The REST views of instances."""

    def __init__(
        self,
        settings: Settings,
        *,
        creation: Creation,
        store: Store,
        doorbells: Doorbells,
        table: RoutingTable,
        nodes: NodeTable,
    ) -> None:
        """Wire the views."""
        self._settings = settings
        self._creation = creation
        self._store = store
        self._doorbells = doorbells
        self._table = table
        self._nodes = nodes

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("instances", __name__, url_prefix="/instances")
        routes.post("")(self.create)
        routes.get("")(self.list)
        routes.get("/<instance_id>")(self.get)
        routes.delete("/<instance_id>")(self.delete)
        return routes

    def create(self) -> tuple[Response, int, dict[str, str]]:
        """Record a new instance, claim its place, ring its node.

        With ?dry_run=1 only say what would become of it.
        """
        arguments.only(request.args, "dry_run", "wait")
        request.max_content_length = _MAX_BODY
        asked = schemas.create_request(_whole_body())
        if arguments.flag("dry_run", request.args.get("dry_run")):
            return self._would_create(asked), HTTPStatus.OK, {}
        wait_s = arguments.wait_seconds(request.args.get("wait"))
        once = once_of(request.headers.get(HEADER), g.principal, asked)
        instance, is_new = self._creation.create(asked, who=str(g.principal), once=once)
        headers = {"Location": url_for("instances.get", instance_id=instance.instance_id)}
        if not is_new:
            headers[REPLAYED] = "true"
        try:
            instance = self._wait(instance.instance_id, _is_settled, wait_s)
            self._table.learn(instance)  # should the store lose who waits in line, it is known here
            settled = HTTPStatus.CREATED if is_new else HTTPStatus.OK
            status = settled if _is_settled(instance) else HTTPStatus.ACCEPTED
            return self._shown(instance), status, headers
        except StoreUnavailable:  # it is accepted: a 503 now would have the caller make another
            return jsonify(public(instance, None)), HTTPStatus.ACCEPTED, headers

    def list(self) -> Response:
        """Return id → record of all that are not ended, oldest first; with ?all=1 of those, too.

        ?node=, ?model= and ?status= pick some; ?limit= gives a page, and its header Link names the
        next one.
        """
        arguments.only(request.args, "node", "model", "status", "all", "limit", "after")
        query = arguments.list_query(request.args)
        limit = arguments.page_limit(request.args.get("limit"))
        after = request.args.get("after", "")
        page = self._store.page(query, after=after, limit=limit or _READ_AT_ONCE)
        found = list(page.records)
        self._nodes.refresh()
        while page.after and limit is None:
            page = self._store.page(query, after=page.after, limit=_READ_AT_ONCE)
            found += page.records
        standings = Standings(self._store, self._nodes)
        answer = jsonify(
            {
                one.instance_id: public(one, self._nodes.get(one.node), standings.of(one))
                for one in found
            }
        )
        if page.after:
            asked = {**request.args.to_dict(), "after": page.after}
            answer.headers["Link"] = f'<{request.path}?{urlencode(asked)}>; rel="next"'
        return answer

    def get(self, instance_id: str) -> Response:
        """Return the record."""
        instance = known(self._store, instance_id)
        self._nodes.refresh()  # a node may just have fallen silent
        return self._shown(instance)

    def delete(self, instance_id: str) -> tuple[Response, int]:
        """Ask the instance to stop; say `deleted` once it is verified gone.

        With ?force=1 one whose node is lost is forgotten: nothing of it can be verified.
        """
        arguments.only(request.args, "wait", "force")
        wait_s = arguments.wait_seconds(request.args.get("wait"))
        force = arguments.flag("force", request.args.get("force"))
        who = str(g.principal)
        if force and not (asked := known(self._store, instance_id)).ended and asked.node:
            lost_node(self._store, asked)  # first: what is refused must change nothing
        instance = self._store.stop(instance_id, reason="deleted by request", by="user", who=who)
        if instance is None:
            raise absent(instance_id)
        if force and not instance.ended:
            instance = forget(self._store, instance, who)
        self._table.learn(instance)
        if not instance.ended:
            self._doorbells.stop(instance)
            if wait_s:
                instance = self._wait(instance_id, converged_since(instance.generation), wait_s)
        elif not instance.node:  # it may have kept a place free
            ring_for_line(self._store, self._doorbells)
        if instance.ended:
            return jsonify({"status": "deleted", "instance_id": instance_id}), HTTPStatus.OK
        return self._shown(instance), HTTPStatus.ACCEPTED

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

    def _would_create(self, asked: CreateRequest) -> Response:
        instance = self._creation.instance(asked)
        decision = self._creation.decide(instance)
        standings = Standings(self._store, self._nodes)
        nodes = self._nodes.nodes()
        return jsonify(dry_run.answer(instance, decision, nodes, standings, self._settings))

    def _shown(self, instance: Instance) -> Response:
        name = instance.node
        node = (self._nodes.get(name) or self._store.node(name)) if name else None
        standing = Standings(self._store, self._nodes).of(instance)
        return jsonify(public(instance, node, standing))


def _whole_body() -> bytes:
    body = request.get_data()
    if request.content_length is not None and len(body) < request.content_length:
        raise InvalidRequest(f"body: ended after {len(body)} of {request.content_length} bytes")
    return body


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
