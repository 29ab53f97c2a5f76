"""The application factory: wiring, nothing else."""

from __future__ import annotations

from flask import Flask

from shared.domain.choice import Routing
from shared.policy import policy
from shared.queue import Doorbells
from shared.settings import Settings
from shared.store import Store
from web import health
from web.access.engine_paths import EnginePaths
from web.access.gate import add_gate
from web.access.keys import KeyTable
from web.control.creation import Creation
from web.control.events import Events
from web.control.following import Followers
from web.control.instances import Instances
from web.control.logs import Logs
from web.control.nodes import Nodes
from web.http.connection import ClosingConnections
from web.http.errors import add_error_handlers
from web.http.request_id import add_request_ids
from web.metrics.answered import Metrics, add_metrics
from web.models.listed import ModelList
from web.models.on_demand import OnDemand
from web.models.router import Router
from web.proxy.exchange import Patience
from web.proxy.forwarding import Forwarding, Limits
from web.proxy.makers import Makers
from web.proxy.openai import OpenAI
from web.proxy.view import Proxy
from web.relay.admission import Admission
from web.relay.relay import Parts
from web.tables.activity import Activity
from web.tables.node_table import NodeTable
from web.tables.routing import RoutingTable

_THREADS_PER_FOLLOWER = 4  # three of four are never held by an answer that goes on


def create_app(
    settings: Settings,
    *,
    store: Store,
    doorbells: Doorbells,
    table: RoutingTable,
    nodes: NodeTable,
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
    creation = Creation(settings, store, doorbells, policy(settings), nodes)
    on_demand = OnDemand(
        settings,
        store=store,
        doorbells=doorbells,
        table=table,
        activity=activity,
        creation=creation,
        nodes=nodes,
    )
    instances = Instances(
        settings,
        creation=creation,
        store=store,
        doorbells=doorbells,
        table=table,
        nodes=nodes,
    )
    machines = Nodes(store, doorbells, nodes)
    for noun in (instances, machines, Events(store, followers), Logs(store, followers)):
        app.register_blueprint(noun.blueprint())
    app.register_blueprint(
        health.blueprint(store, nodes, settings.idle_sweep_interval_s, on_demand.file)
    )
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
    forwarding = Forwarding(table, activity, patience, limits)
    router = Router(
        table.models,
        activity,
        Routing(settings.routing),
        reported_waiting=nodes.reported_waiting,
        is_lost=nodes.is_lost,
        room=on_demand.room,
    )
    listed, makers = ModelList(table.models, router, on_demand.room), Makers()
    Proxy(table, paths, forwarding).add_to(app)
    OpenAI(router, listed, makers, table=table, paths=paths, forwarding=forwarding).add_to(app)
    metrics.waiting = on_demand.room.lengths
    metrics.nodes = nodes.nodes
    add_metrics(app, metrics)
    app.wsgi_app = ClosingConnections(app.wsgi_app)  # type: ignore[method-assign]
    app.extensions["on_demand"] = on_demand
    app.extensions["relay"] = Parts(
        settings=settings,
        admission=Admission(table, keys, paths),
        router=router,
        makers=makers,
        activity=activity,
        metrics=metrics,
        followers=followers,
    )
    return app
