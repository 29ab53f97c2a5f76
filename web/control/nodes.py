"""/nodes: look at machines, and take them out of service and back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from urllib.parse import urlencode

from flask import Blueprint, Response, g, jsonify, request

from shared.domain.drain import BY_DRAIN, leaves_at_once, why_it_leaves
from shared.domain.node import Gpu, Node
from shared.domain.wanted import WHOLE
from shared.errors import Conflict, NotFound, RecordUnreadable
from shared.placing import ring_for_line
from shared.queue import Doorbells
from shared.store import Store
from web.control import arguments
from web.control.node_query import node_query
from web.http.caller import caller_socket, is_gone
from web.tables.node_table import NodeTable

_LOOK_FOR_CALLER_S = 1.0  # while waiting on a caller's behalf

log = logging.getLogger(__name__)


class Nodes:
    """The REST views of nodes."""

    def __init__(self, store: Store, doorbells: Doorbells, table: NodeTable) -> None:
        self._store = store
        self._doorbells = doorbells
        self._table = table

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("nodes", __name__, url_prefix="/nodes")
        routes.get("")(self.list)
        routes.get("/<name>")(self.get)
        routes.delete("/<name>")(self.delete)
        routes.post("/<name>/cordon")(self.cordon)
        routes.post("/<name>/uncordon")(self.uncordon)
        routes.post("/<name>/drain")(self.drain)
        return routes

    def list(self) -> Response:
        """Return name → node of all, lost ones too, by name.

        ?status= and ?label= pick some; ?limit= gives a page, and its header Link names the next.
        """
        picks = node_query(request.args)
        limit = arguments.page_limit(request.args.get("limit"))
        after = request.args.get("after", "")
        self._table.refresh()
        names = [n.name for n in self._table.nodes() if n.name > after and picks(n)]
        here = names[:limit]
        answer = jsonify({node.name: public(node) for node in self._store.nodes(here)})
        if len(here) < len(names):
            asked = {**request.args.to_dict(), "after": here[-1]}
            answer.headers["Link"] = f'<{request.path}?{urlencode(asked)}>; rel="next"'
        return answer

    def get(self, name: str) -> Response:
        """Return one node."""
        return jsonify(public(self._known(name)))

    def cordon(self, name: str) -> Response:
        """Have nothing new placed on a node."""
        return self._changed(self._store.cordon(name), name)

    def uncordon(self, name: str) -> Response:
        """Have instances placed on a node again, and no more of it drained."""
        node = self._store.uncordon(name)
        ring_for_line(self._store, self._doorbells)
        return self._changed(node, name)

    def drain(self, name: str) -> tuple[Response, int]:
        """Cordon a node, and have its instances leave it once their requests have ended.

        With ?wait=SECONDS the answer waits until nothing is left on it.
        """
        wait_s = arguments.wait_seconds(request.args.get("wait"))
        node = self._store.cordon(name, drain=True)
        if node is None:
            raise _unknown(name)
        log.info("node %s: to be drained, says %s", name, g.principal)
        held = self._store.several([claim.instance_id for claim in node.claims])
        for instance in held.values():
            if instance is not None and leaves_at_once(instance):
                self._have_leave(instance.instance_id, name)
        self._wait(name, lambda now: now is None or now.drained, wait_s)
        node = self._known(name)
        return jsonify(public(node)), HTTPStatus.OK if node.drained else HTTPStatus.ACCEPTED

    def _have_leave(self, instance_id: str, node: str) -> None:
        with suppress(RecordUnreadable):  # since it was read; the others are to leave, too
            stopped = self._store.stop(
                instance_id, reason=why_it_leaves(node), by=BY_DRAIN, who=str(g.principal)
            )
            if stopped is not None and not stopped.ended:
                self._doorbells.stop(stopped)

    def delete(self, name: str) -> Response:
        """Forget a node that is gone for good: lost, and nothing of it is claimed."""
        if not self._store.forget_node(name):
            node = self._known(name)
            what = f"holds {_instances(len(node.claims))}" if node.lost else "has a living worker"
            raise Conflict(
                f"node {name} {what}, so it cannot be forgotten; "
                "stop its worker, and delete its instances with force=1"
            )
        log.info("node %s: forgotten, says %s", name, g.principal)
        return jsonify({"status": "deleted", "name": name})

    def _changed(self, node: Node | None, name: str) -> Response:
        if node is None:
            raise _unknown(name)
        done = "cordoned" if node.cordoned else "uncordoned"
        log.info("node %s: %s, says %s", name, done, g.principal)
        return jsonify(public(node))

    def _known(self, name: str) -> Node:
        node = self._store.node(name)
        if node is None:
            raise _unknown(name)
        return node

    def _wait(self, name: str, done: Callable[[Node | None], bool], timeout_s: float) -> None:
        caller = caller_socket(request.environ)
        deadline = monotonic() + timeout_s
        while (left := deadline - monotonic()) > 0 and not is_gone(caller):
            if done(self._table.wait_for(name, done, min(left, _LOOK_FOR_CALLER_S))):
                return


def public(node: Node) -> dict[str, object]:
    """Return a node as callers see it."""
    return {
        "name": node.name,
        "status": "lost" if node.lost else "alive",
        "reason": node.silence.removeprefix("lost: ") if node.lost else "",
        "heartbeat_age_s": None if node.heartbeat_age_s is None else round(node.heartbeat_age_s, 1),
        "cordoned": node.cordoned,
        "draining": node.draining,
        "drained": node.drained,
        "address": node.address,
        "labels": dict(node.labels),
        "engine_version": node.engine_version or None,
        "simulated": node.simulated,
        "max_instances": node.max_instances,
        "free_slots": node.free_slots,
        "gpus": [_gpu(gpu, node) for gpu in node.gpus],
        "instances": {
            claim.instance_id: {
                "gpus": {uuid: share / WHOLE for uuid, share in claim.shares.items()},
                "running": load.running if (load := node.loads.get(claim.instance_id)) else None,
                "waiting": load.waiting if load else None,
            }
            for claim in node.claims
        },
        "models": sorted(node.models),
        "orphans": [
            {"instance_id": orphan.instance_id, "pids": orphan.pids} for orphan in node.orphans
        ],
    }


def _gpu(gpu: Gpu, node: Node) -> dict[str, object]:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "simulated": gpu.simulated,
        "total_mib": gpu.total_mib,
        "free_mib": gpu.free_mib,
        "foreign_mib": gpu.foreign_mib,
        "claimed": node.held.get(gpu.uuid, 0) / WHOLE,
    }


def _unknown(name: str) -> NotFound:
    return NotFound(f"no node {name}")


def _instances(number: int) -> str:
    return "1 instance" if number == 1 else f"{number} instances"
