"""Callers of REST: instances are created and deleted all the time, lists are read."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections import Counter
from collections.abc import Callable
from time import monotonic

from tests.scale.fleet import body, model_name
from tests.scale.meter import Meter

_CALLERS = 16  # at once; fewer would wait for answers instead of asking
_LIVES_S = 1.0  # an instance, from its creation to its deletion
_LOOKS = 1.0  # of each kind, in a second
_TIMEOUT_S = 30.0

Job = Callable[["_Caller"], None]


class Callers:
    """Calls a web tier until it is ended.

    Args:
        port: of the web tier, on this machine.
        churn: instances that are created in a second, and deleted.
        node: name of one.
    """

    def __init__(self, port: int, churn: float, node: str) -> None:
        self.meter = Meter()
        self.statuses: Counter[str] = Counter()  # call and status
        self._port = port
        self.churn = churn
        self._over = threading.Event()
        self._jobs: queue.PriorityQueue[tuple[float, int, Job | None]] = queue.PriorityQueue()
        self._number = 0
        self._lists = {
            "list: GET /instances?limit=100": "/instances?limit=100",
            "list: of a node": f"/instances?node={node}&limit=100",
            "list: running ones of a model": (
                f"/instances?model={model_name(0)}&status=running&limit=100"
            ),
            "GET /instances/ID": f"/instances/stays-{node}-0",
            "GET /nodes/NAME": f"/nodes/{node}",
            "GET /readyz": "/readyz",
        }
        self._threads = [threading.Thread(target=self._call) for _ in range(_CALLERS)]
        self._threads.append(threading.Thread(target=self._plan))

    def start(self) -> None:
        """Begin to call."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it."""
        self._over.set()
        for _ in range(_CALLERS):
            self._jobs.put((0.0, -1, None))
        for thread in self._threads:
            thread.join()

    def forget(self) -> None:
        """Begin anew: so far it was warming up."""
        self.meter.forget()
        self.statuses.clear()

    def _plan(self) -> None:
        begun, made, looked = monotonic(), 0, 0
        while not self._over.wait(0.005):
            passed_s = monotonic() - begun
            for _ in range(int(passed_s * self.churn) - made):
                made += 1
                self._at(0.0, self._create)
            for _ in range(int(passed_s * _LOOKS) - looked):
                looked += 1
                for name, path in self._lists.items():
                    self._at(0.0, lambda caller, name=name, path=path: caller.ask(name, path))  # type: ignore[misc]

    def _at(self, in_s: float, job: Job) -> None:
        self._number += 1
        self._jobs.put((monotonic() + in_s, self._number, job))

    def _create(self, caller: _Caller) -> None:
        made = caller.create(body(self._number))
        if made:
            self._at(_LIVES_S, lambda other: other.delete(made))

    def _call(self) -> None:
        caller = _Caller(self._port, self.meter, self.statuses)
        while True:
            at, number, job = self._jobs.get()
            if job is None:
                break
            if at > monotonic():
                self._jobs.put((at, number, job))
                if self._over.wait(0.002):
                    break
                continue
            job(caller)
        caller.close()


class _Caller:
    """One connection to the web tier."""

    def __init__(self, port: int, meter: Meter, statuses: Counter[str]) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        self._meter = meter
        self._statuses = statuses

    def create(self, asked: bytes) -> str:
        """Create an instance; return its id, or "" if it was refused."""
        said = self.ask("create: POST /instances", "/instances", method="POST", body=asked)
        return str(json.loads(said).get("instance_id", ""))

    def delete(self, instance_id: str) -> None:
        """Ask an instance to stop."""
        self.ask("delete: DELETE /instances/ID", f"/instances/{instance_id}", method="DELETE")

    def ask(self, name: str, path: str, *, method: str = "GET", body: bytes | None = None) -> bytes:
        """Call, and return what comes back."""
        headers = {"Content-Type": "application/json"} if body else {}

        def call() -> bytes:
            self._http.request(method, path, body=body, headers=headers)
            answer = self._http.getresponse()
            self._statuses[f"{name}: {answer.status}"] += 1
            return answer.read()

        return self._meter.time(name, call)

    def close(self) -> None:
        """Hang up."""
        self._http.close()
