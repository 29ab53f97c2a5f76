"""What gunicorn serves: one application per web process, on the fleet's Redis."""

from __future__ import annotations

import logging
import sys

from flask import Flask

from shared.errors import SettingsError
from shared.queue import Doorbells, celery_app
from shared.settings import Settings
from shared.store.redis import RedisStore, connect
from web.activity import Activity
from web.app import create_app
from web.keys import KeyTable
from web.routing import RoutingTable

_BOOT_FAILED = 3  # gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR: the master ends instead of retrying


def _serve() -> Flask:
    settings = Settings.load_or_exit()
    logging.basicConfig(
        level=logging.DEBUG if settings.app_debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    store = RedisStore(connect(settings.redis_url))
    doorbells = Doorbells(celery_app(settings, keep_results=False))
    table, activity, keys = RoutingTable(store), Activity(store), KeyTable(store)
    try:
        application = create_app(
            settings, store=store, doorbells=doorbells, table=table, keys=keys, activity=activity
        )
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_BOOT_FAILED)
    keys.start()
    table.start()
    activity.start()
    return application


app = _serve()
