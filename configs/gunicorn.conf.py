"""gunicorn for the web tier: `gunicorn --config configs/gunicorn.conf.py web.wsgi:app`."""

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from shared.address import authority
from shared.settings import Settings
from web.metrics.snapshots import Snapshots
from web.relay.loads import Loads
from web.serving.booting import hear_signals, hold_signals_at_forks
from web.serving.reloading import Reloading

_PROCESSES_END_S = 5  # once their requests have ended, or were cut

_settings = Settings.load_or_exit()

bind = [authority(_settings.app_host, _settings.app_port)]
workers = _settings.web_processes
threads = _settings.web_threads
worker_class = "web.relay.worker.RelayWorker"
worker_connections = 8192  # per process; a stream is one
reload = _settings.app_debug
loglevel = "debug" if _settings.app_debug else "info"
accesslog = "-" if _settings.app_debug else None
control_socket_disable = True  # one socket in $HOME, shared by all gunicorns of a user
keepalive = 75  # seconds; the default of 2 makes a client of several calls connect each time
graceful_timeout = _settings.web_graceful_timeout_s + _PROCESSES_END_S  # then SIGKILL
limit_request_fields = _settings.proxy_max_headers
forwarded_allow_ips = ""  # no header says who the caller is


def _metrics(server: Arbiter) -> Snapshots:
    return Snapshots(_settings.run_dir, server.pid)


def on_starting(server: Arbiter) -> None:
    """Begin with no counts: a new master is a new start."""
    _metrics(server).clear()
    Reloading.of(server)
    hold_signals_at_forks(server)
    server.fleet_loads = Loads()


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """Give each web process a place to tell the others how busy it is."""
    worker.load = server.fleet_loads.new()


def post_worker_init(_: Worker) -> None:
    """Take signals, from now on, under gunicorn's own worker classes too."""
    hear_signals()


def on_reload(server: Arbiter) -> None:
    """Go on while the old processes end."""
    Reloading.of(server).begins()


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Keep what a web process that ended has counted."""
    _metrics(server).merge(server.WORKERS)
    Reloading.of(server).ended(worker)
    server.fleet_loads.free(worker.load)


def on_exit(server: Arbiter) -> None:
    """Leave nothing behind."""
    _metrics(server).remove()
