"""What gunicorn serves: one application per web process, on the fleet's Redis."""

from __future__ import annotations

import atexit
import os
import sys

from flask import Flask

from shared.errors import SettingsError
from shared.logs import log_to_stderr
from shared.queue import Doorbells, celery_app
from shared.settings import Settings
from shared.store.redis import RedisStore, connect
from web.access.key_filter import KeyFilter
from web.access.keys import KeyTable
from web.app import create_app
from web.http.request_id import RequestIdFilter
from web.metrics.answered import Metrics
from web.metrics.snapshots import Snapshots
from web.tables.activity import Activity
from web.tables.node_table import NodeTable
from web.tables.routing import RoutingTable

_BOOT_FAILED = 3  # gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR: the master ends instead of retrying


def _serve() -> Flask:
    settings = Settings.load_or_exit()
    log_to_stderr(debug=settings.app_debug, filters=[KeyFilter(), RequestIdFilter()])
    client = connect(settings.redis_url)
    store = RedisStore(client)
    doorbells = Doorbells(celery_app(settings, keep_results=False), client)
    activity, keys = Activity(store), KeyTable(store)
    nodes = NodeTable(store)
    table = RoutingTable(store, withdrawn=activity.tell_soon, why_lost=nodes.why_lost)
    metrics = Metrics(Snapshots(settings.run_dir, os.getppid()), table, activity)
    try:
        application = create_app(
            settings,
            store=store,
            doorbells=doorbells,
            table=table,
            nodes=nodes,
            keys=keys,
            activity=activity,
            metrics=metrics,
        )
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_BOOT_FAILED)
    keys.start()
    table.start()
    nodes.start()
    activity.start()
    metrics.start()
    application.extensions["on_demand"].start()
    atexit.register(metrics.close)
    return application


app = _serve()
