"""/healthz: this process lives. /readyz: it can do its work."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from shared.errors import StoreUnavailable
from shared.store import Store


def blueprint(store: Store) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int]:
        checks = _checks(store)
        ready = all(check == "ok" for check in checks.values())
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return jsonify(status="ok" if ready else "not ready", **checks), status

    return routes


def _checks(store: Store) -> dict[str, str]:
    try:
        nodes = store.nodes()
    except StoreUnavailable as error:
        return {"redis": str(error), "workers": "unknown: Redis does not answer"}
    alive = [node.name for node in nodes if not node.lost]
    return {"redis": "ok", "workers": "ok" if alive else "no worker sends a heartbeat"}
