"""The application factory: wiring, nothing else."""

from __future__ import annotations

from flask import Flask

from shared.policy import policy
from shared.queue import Doorbells
from shared.settings import Settings
from shared.store import Store
from web import health
from web.activity import Activity
from web.connection import ClosingConnections
from web.engine_paths import EnginePaths
from web.errors import add_error_handlers
from web.events import Events
from web.exchange import Patience
from web.following import Followers
from web.gate import add_gate
from web.instances import Instances
from web.keys import KeyTable
from web.logs import Logs
from web.metrics import Metrics, add_metrics
from web.proxy import Limits, Proxy
from web.relay.admission import Admission
from web.relay.relay import Parts
from web.request_id import add_request_ids
from web.routing import RoutingTable

_THREADS_PER_FOLLOWER = 4  # three of four are never held by an answer that goes on


def create_app(
    settings: Settings,
    *,
    store: Store,
    doorbells: Doorbells,
    table: RoutingTable,
    keys: KeyTable,
    activity: Activity,
    metrics: Metrics,
) -> Flask:
    """Return the web application.

    Raises:
        SettingsError: VLLM_CONFIG or VLLM_UNSAFE_PARAMS cannot be used.
    """
    app = Flask("web", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # a redirect to a merged path would be built from Host
    add_request_ids(app)
    add_gate(app, keys, settings.app_port)
    add_error_handlers(app)
    followers = Followers(max(1, settings.web_threads // _THREADS_PER_FOLLOWER), keys)
    instances = Instances(settings, store, doorbells, table, policy(settings))
    for noun in (instances, Events(store, followers), Logs(store, followers)):
        app.register_blueprint(noun.blueprint())
    app.register_blueprint(health.blueprint(store, settings.idle_sweep_interval_s))
    patience = Patience(
        connect=settings.proxy_connect_timeout_s,
        first_byte=settings.proxy_first_byte_timeout_s,
        idle=settings.proxy_idle_timeout_s,
        body=settings.proxy_body_timeout_s,
    )
    limits = Limits(
        body=settings.proxy_max_body,
        header_bytes=settings.proxy_max_header_bytes,
        headers=settings.proxy_max_headers,
    )
    paths = EnginePaths(settings.proxy_allow_paths)
    Proxy(table, activity, paths, patience, limits).add_to(app)
    add_metrics(app, metrics)
    app.wsgi_app = ClosingConnections(app.wsgi_app)  # type: ignore[method-assign]
    app.extensions["relay"] = Parts(
        settings=settings,
        admission=Admission(table, keys, paths),
        activity=activity,
        metrics=metrics,
        followers=followers,
    )
    return app
