"""The application factory: wiring, nothing else."""

from __future__ import annotations

from flask import Flask

from shared.policy import policy
from shared.queue import Doorbells
from shared.settings import Settings
from shared.store import Store
from web import health
from web.activity import Activity
from web.auth import add_auth
from web.errors import add_error_handlers
from web.exchange import Patience
from web.instances import Instances
from web.proxy import Proxy
from web.routing import RoutingTable


def create_app(
    settings: Settings,
    *,
    store: Store,
    doorbells: Doorbells,
    table: RoutingTable,
    activity: Activity,
) -> Flask:
    """Return the web application.

    Raises:
        SettingsError: VLLM_CONFIG or VLLM_UNSAFE_PARAMS cannot be used.
    """
    app = Flask("web", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # a redirect to a merged path would be built from Host
    add_auth(app)
    add_error_handlers(app)
    app.register_blueprint(
        Instances(settings, store, doorbells, table, policy(settings)).blueprint()
    )
    app.register_blueprint(health.blueprint(store))
    patience = Patience(
        connect=settings.proxy_connect_timeout_s,
        first_byte=settings.proxy_first_byte_timeout_s,
        idle=settings.proxy_idle_timeout_s,
    )
    Proxy(table, activity, patience).add_to(app)
    return app
