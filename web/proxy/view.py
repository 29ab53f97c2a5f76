"""`ANY /proxy/{id}/{path}`: any request to that engine, streamed both ways."""

from __future__ import annotations

from flask import Flask, Response, g, request
from werkzeug.routing import BaseConverter, Rule

from shared.errors import InstanceNotReady
from web.access.auth import authorize
from web.access.engine_paths import EnginePaths
from web.http.connection import close_after
from web.http.upload import CallerGone
from web.proxy.forwarding import Forwarding, gone, is_websocket
from web.proxy.target import engine_target
from web.tables.routing import RoutingTable


class Proxy:
    """Forwards what names its instance; chooses nothing."""

    def __init__(self, table: RoutingTable, paths: EnginePaths, forwarding: Forwarding) -> None:
        self._table = table
        self._paths = paths
        self._forwarding = forwarding

    def add_to(self, app: Flask) -> None:
        """Take all methods on all paths below /proxy/{id}."""
        app.url_map.converters["rest"] = Rest
        # Flask's own route() insists on a list of methods; a rule without one takes any.
        for path in ("/proxy/<instance_id>", "/proxy/<instance_id>/<rest:_>"):
            for websocket in (False, True):
                rule = Rule(path, endpoint="proxy", strict_slashes=False, websocket=websocket)
                app.url_map.add(rule)
        app.view_functions["proxy"] = self.view

    def view(self, instance_id: str, _: str = "") -> Response:
        """Forward this request to its engine and stream the answer back."""
        target = engine_target(raw_target(), f"/proxy/{instance_id}")
        path = target.partition("?")[0]
        access = self._paths.access(path, request.method)
        # Before `route`, whose refusals tell that there is such an instance and how it is.
        authorize(g.principal, instance_id, self._table.last_known(instance_id), access, path)
        instance = self._table.route(instance_id)
        if is_websocket() and self._table.serving(instance_id) is None:
            # The relay takes only what the table knows, which hears of a new one in a moment.
            raise InstanceNotReady(f"instance {instance_id} has just come up", retry_after_s=1)
        upload = self._forwarding.accept()
        try:
            exchange = self._forwarding.connect(instance)
            return self._forwarding.forward(exchange, instance, target, upload)
        except CallerGone:
            return gone()
        finally:
            if not upload.complete:
                close_after(request.environ)


class Rest(BaseConverter):
    """Whatever follows: Werkzeug's `path` does not take `//`, and we want to say why we do not."""

    part_isolating = False
    regex = ".*"


def raw_target() -> str:
    """Return the request target as it stood in the request line, where the server gives it."""
    environ = request.environ
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    return raw if isinstance(raw, str) else request.full_path.removesuffix("?")
