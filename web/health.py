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
from web.http.errors import error_object
from web.models.catalogue_file import CatalogueFile
from web.tables.node_table import NodeTable

_SWEEPS_MISSED = 3  # in a row, before beat counts as silent
_LATE_S = 5.0  # what one sweep may be late, of a worker that is busy


def blueprint(
    store: Store, nodes: NodeTable, sweep_interval_s: float, catalogue: CatalogueFile
) -> Blueprint:
    """Return the routes; beat has all of the fleet swept each `sweep_interval_s`."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int]:
        checks, notes = _checks(store, nodes, sweep_interval_s)
        if catalogue.fault:  # the one before is in force, so what is asked can be done
            notes["catalogue"] = catalogue.fault
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


def _checks(
    store: Store, table: NodeTable, sweep_interval_s: float
) -> tuple[dict[str, str], dict[str, str]]:
    """Return what must be "ok", and what an operator should know besides."""
    try:
        table.refresh()
        swept_ago_s, unreadable = store.swept_ago_s(), store.unreadable()
    except StoreUnavailable as error:
        return {"redis": str(error), "workers": "unknown: Redis does not answer"}, {}
    nodes = table.nodes()
    alive = [node for node in nodes if not node.lost]
    lost = "; ".join(f"node {node.name} is {node.silence}" for node in nodes if node.lost)
    orphans = "; ".join(
        f"pids {', '.join(map(str, orphan.pids))} on node {node.name} are of an instance "
        f"{orphan.instance_id} that no record knows"
        for node in alive
        for orphan in node.orphans
    )
    workers = "ok" if alive else "no worker sends a heartbeat"
    notes = {
        "orphans": orphans,
        "lost": lost if alive else "",
        "beat": _beat(swept_ago_s, sweep_interval_s) if alive else "",
        "records": "; ".join(map(str, unreadable)),
    }
    checks = {"redis": "ok", "workers": workers}
    return checks, {name: said for name, said in notes.items() if said}


def _beat(swept_ago_s: float | None, interval_s: float) -> str:
    """Return what is wrong with beat; "" if nothing is, or if it never was there."""
    if swept_ago_s is None or swept_ago_s <= _SWEEPS_MISSED * interval_s + _LATE_S:
        return ""
    return (
        f"silent for {swept_ago_s:.0f} s; its part is to have idle instances stopped every "
        f"{interval_s:g} s, which each node does for its own meanwhile"
    )
