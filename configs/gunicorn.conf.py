"""gunicorn for the web tier: `gunicorn --config configs/gunicorn.conf.py web.wsgi:app`."""

from shared.settings import Settings

_settings = Settings.load_or_exit()

_host = _settings.app_host
bind = [f"[{_host}]:{_settings.app_port}" if ":" in _host else f"{_host}:{_settings.app_port}"]
workers = _settings.web_processes
threads = _settings.web_threads
worker_class = "web.relay.worker.RelayWorker"
worker_connections = 8192  # per process; a stream is one
reload = _settings.app_debug
loglevel = "debug" if _settings.app_debug else "info"
accesslog = "-" if _settings.app_debug else None
control_socket_disable = True  # one socket in $HOME, shared by all gunicorns of a user
keepalive = 75  # seconds; the default of 2 makes a client of several calls connect each time
graceful_timeout = 30  # seconds for streams under way to end when the web tier is stopped
forwarded_allow_ips = ""  # no header says who the caller is
