"""The Celery application of worker, beat and Flower: `celery --app workers.app …`."""

from __future__ import annotations

from functools import partial

from shared import queue
from shared.placing import Placing, ring_for_line
from shared.settings import Settings
from shared.store.redis import RedisStore, connect
from workers.bootstep import SupervisorStep, SupervisorThread
from workers.tasks import add_tasks
from workers.waker import Waker

settings = Settings.load_or_exit()
app = queue.celery_app(settings, keep_results=True)
app.conf.task_queues = [queue.node_queue(settings.node_name), queue.sweeps_queue()]
app.conf.worker_consumer = "workers.consumer:Consumer"
app.conf.beat_scheduler = "celery.beat:Scheduler"  # in memory: its file corrupts at a kill
app.conf.beat_schedule = {
    "expire-idle": {
        "task": queue.EXPIRE_IDLE,
        "schedule": settings.idle_sweep_interval_s,
        "options": {"queue": queue.SWEEPS, "expires": 2 * settings.idle_sweep_interval_s},
    },
    "place-waiting": {
        "task": queue.PLACE_WAITING,
        "schedule": settings.line_interval_s,
        "options": {"queue": queue.SWEEPS, "expires": 2 * settings.line_interval_s},
    },
}

_client = connect(settings.redis_url)
_store, _doorbells, _waker = RedisStore(_client), queue.Doorbells(app, _client), Waker()
add_tasks(
    app,
    node=settings.node_name,
    store=_store,
    doorbells=_doorbells,
    waker=_waker,
    placing=Placing.of(settings),
    idle_hold_s=settings.idle_hold_s,
)
SupervisorStep.thread = SupervisorThread(
    settings, _store, _waker, partial(ring_for_line, _store, _doorbells)
)
app.steps["worker"].add(SupervisorStep)
