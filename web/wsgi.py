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
from web.activity import Activity
from web.app import create_app
from web.key_filter import KeyFilter
from web.keys import KeyTable
from web.metrics import Metrics
from web.request_id import RequestIdFilter
from web.routing import RoutingTable
from web.snapshots import Snapshots

_BOOT_FAILED = 3  # gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR: the master ends instead of retrying


def _serve() -> Flask:
    settings = Settings.load_or_exit()
    log_to_stderr(debug=settings.app_debug, filters=[KeyFilter(), RequestIdFilter()])
    store = RedisStore(connect(settings.redis_url))
    doorbells = Doorbells(celery_app(settings, keep_results=False))
    activity, keys = Activity(store), KeyTable(store)
    table = RoutingTable(store, withdrawn=activity.tell_soon)
    metrics = Metrics(Snapshots(settings.run_dir, os.getppid()), table, activity)
    try:
        application = create_app(
            settings,
            store=store,
            doorbells=doorbells,
            table=table,
            keys=keys,
            activity=activity,
            metrics=metrics,
        )
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_BOOT_FAILED)
    keys.start()
    table.start()
    activity.start()
    metrics.start()
    atexit.register(metrics.close)
    return application


app = _serve()
