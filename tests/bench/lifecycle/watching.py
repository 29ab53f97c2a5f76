"""When something became so: times by time.monotonic(), to 10 ms."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import CLOCK_BOOTTIME, clock_gettime, monotonic
from urllib.parse import urlsplit

from tests.bench.errors import BenchError
from workers.run_directory import RunDirectory

EVERY_S = 0.01  # between looks: more would take the CPU time that is to be measured
_TICKS = 100  # of /proc/PID/stat per second: USER_HZ, the same on every Linux that vLLM runs on
_ANSWERS_S = 10.0
_PROMPT = {"prompt": "Once", "max_tokens": 4, "stream": True, "temperature": 0}


@dataclass(frozen=True, slots=True)
class Place:
    """Where to ask: an engine itself, or an instance behind a web process."""

    base: str  # URL up to the engine's own paths
    key: str  # "" where none is needed
    model: str

    def first_token(self) -> bool:
        """Return whether a completion's first token came; reads no further."""
        headers = {"Content-Type": "application/json"}
        body = json.dumps({"model": self.model, **_PROMPT})
        status, piece = self._ask("POST", "/v1/completions", body, headers)
        return status == http.HTTPStatus.OK and piece.startswith(b"data: {")

    def healthy(self) -> bool:
        """Return whether /health is 200."""
        return self.status() == http.HTTPStatus.OK

    def status(self) -> int:
        """Return the status of /health; 0 if nobody answers."""
        return self._ask("GET", "/health")[0]

    def _ask(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        parts = urlsplit(self.base)
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=_ANSWERS_S
        )
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            connection.request(method, f"{parts.path}{path}", body, {**(headers or {}), **key})
            answer = connection.getresponse()
            return answer.status, answer.readline()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


def when(so: Callable[[], object], timeout_s: float, *, what: str) -> float:
    """Return when `so()` was first true.

    Raises:
        BenchError: it was not, in all that time.
    """
    deadline = monotonic() + timeout_s
    while not so():
        if monotonic() > deadline:
            raise BenchError(f"not within {timeout_s:g} s: {what}")
        Event().wait(EVERY_S)
    return monotonic()


def watch(
    pool: ThreadPoolExecutor, so: Callable[[], object], timeout_s: float, *, what: str
) -> Future[float]:
    """Begin to look; the result is as of `when`."""
    return pool.submit(when, so, timeout_s, what=what)


def spawned_at(run_dir: Path, instance_id: str, timeout_s: float) -> float:
    """Return when the engine's first process began, to 10 ms."""
    run = RunDirectory(run_dir / "engines" / instance_id)
    when(lambda: run.read("state"), timeout_s, what="the engine's process was not spawned")
    state = run.read("state") or {}
    ahead = clock_gettime(CLOCK_BOOTTIME) - monotonic()
    return float(state["start_time"]) / _TICKS - ahead
