"""The whole fleet in the foreground: `python -m shared.foreground`, what `make run` runs.

honcho with the Procfile as it stands, and three things more: the redis line is left out where
REDIS_URL names another; at the end the web tier does not wait for streams under way, as it does on
SIGTERM, since their engines end too; and Redis goes last, after the worker has ended its engines
and written so.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import honcho.manager
import requests
from honcho.environ import parse_procfile
from honcho.printer import Printer

from shared.settings import ROOT, Settings

_ENGINES_END_S = 30.0  # besides STOP_TIMEOUT: SIGKILL, and seeing that nothing is left
_LOOK_S = 0.1
_OK = 200
_ASKED_TO_END = frozenset({130, 143})  # honcho's exit status after SIGINT and SIGTERM
_AT_ONCE = "web"
_LAST = "redis"


class Foreground(honcho.manager.Manager):
    """honcho's process manager, ending Redis last."""

    _ending = False

    def terminate(self) -> None:
        """Ask all processes to end, Redis only once the others have."""
        if not self._ending:
            self._ending = True
            threading.Thread(target=self._end_in_order, daemon=True).start()

    def say(self, text: str) -> None:
        """Print a line of our own among those of the processes."""
        self._system_print(f"{text}\n")

    def _end_in_order(self) -> None:
        others = [name for name in self._processes if name != _LAST]
        self._ask_to_end(others)
        waited = threading.Event()
        while any("returncode" not in self._processes[name] for name in others):
            waited.wait(_LOOK_S)
        self._ask_to_end([_LAST])

    def _ask_to_end(self, names: list[str]) -> None:
        for name in names:
            process = self._processes.get(name, {"returncode": 0})
            if "returncode" in process:
                continue
            if name == _AT_ONCE:
                with suppress(ProcessLookupError):
                    os.killpg(process["pid"], signal.SIGINT)
            else:
                self._procmgr.terminate(process["pid"])


def main() -> None:
    """Run until interrupted, or until one process ends by itself."""
    settings = Settings.load_or_exit()
    honcho.manager.KILL_WAIT = settings.stop_timeout_s + _ENGINES_END_S
    fleet = Foreground(Printer(sys.stdout, prefix=True))
    # So that `gunicorn` and `celery` in the Procfile are those of this environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{settings.inherited_env.get('PATH', '')}"
    for name, command in parse_procfile((ROOT / "Procfile").read_text()).processes.items():
        if name != _LAST or settings.embedded_redis:
            env = os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"}
            fleet.add_process(name, command, env=env, cwd=str(ROOT))
    # A closed terminal is an end like Ctrl-C; honcho would die and leave all of this behind.
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    threading.Thread(target=_say_when_ready, args=(fleet, settings), daemon=True).start()
    fleet.loop()
    sys.exit(0 if fleet.returncode in _ASKED_TO_END else fleet.returncode)


def _say_when_ready(fleet: Foreground, settings: Settings) -> None:
    base = f"http://localhost:{settings.app_port}"
    waited = threading.Event()
    while not _is_ready(base):
        waited.wait(_LOOK_S)
    fleet.say(
        f"ready at {base}  (Flower: http://localhost:{settings.flower_port}; Ctrl-C ends all)"
    )


def _is_ready(base: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False  # a proxy is for the model hub, not for this machine
        try:
            return session.get(f"{base}/readyz", timeout=1).status_code == _OK
        except requests.RequestException:
            return False


if __name__ == "__main__":
    main()
