"""/healthz: this process lives. /readyz: it can do its work.

Anybody may ask both. Which part is missing, and Redis's own words, are for admins: they tell where
Redis is and when nobody looks.
"""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, g, jsonify

from shared.domain.key import Scope
from shared.errors import StoreUnavailable
from shared.store import Store
from web.errors import error_object


def blueprint(store: Store) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int]:
        checks, notes = _checks(store)
        ready = all(check == "ok" for check in checks.values())
        shown = checks | notes if g.principal and g.principal.scope is Scope.ADMIN else {}
        if ready:
            return jsonify(status="ok", **shown), HTTPStatus.OK
        faults = "; ".join(f"{name}: {said}" for name, said in checks.items() if said != "ok")
        status = HTTPStatus.SERVICE_UNAVAILABLE
        error = error_object(
            status, f"not ready: {faults}" if shown else "not ready", code="not_ready"
        )
        return jsonify(status="not ready", **shown, error=error), status

    return routes


def _checks(store: Store) -> tuple[dict[str, str], dict[str, str]]:
    """Return what must be "ok", and what an operator should know besides."""
    try:
        nodes = store.nodes()
    except StoreUnavailable as error:
        return {"redis": str(error), "workers": "unknown: Redis does not answer"}, {}
    alive = [node for node in nodes if not node.lost]
    orphans = "; ".join(
        f"pids {', '.join(map(str, orphan.pids))} on node {node.name} are of an instance "
        f"{orphan.instance_id} that no record knows"
        for node in alive
        for orphan in node.orphans
    )
    workers = "ok" if alive else "no worker sends a heartbeat"
    return {"redis": "ok", "workers": workers}, {"orphans": orphans} if orphans else {}
