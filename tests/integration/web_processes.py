"""The web tier as processes: who they are, what they hold, and streams that a test ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import Self

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.demo.waiting import until
from tests.integration.conformance import Caller, Case, Way
from tests.integration.harness import Process, local_fleet
from tests.integration.raw_engine import Talk

PIECES = [b"data: %d\n\n" % number for number in range(5)]
_ESTABLISHED = "01"


class Held:
    """An engine's answer of several chunks that stops after the first until the test lets go."""

    def __init__(self) -> None:
        self._go = threading.Event()

    def __call__(self, talk: Talk) -> None:
        """Answer one request; the script of an engine."""
        talk.read_body()
        talk.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for number, piece in enumerate(PIECES):
            talk.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            if number == 0:
                self._go.wait(60)
        talk.send(b"0\r\n\r\n")

    def let_go(self) -> None:
        """Send the rest of all answers."""
        self._go.set()


class Stream:
    """One answer under way, of which the head and the first chunk have come."""

    def __init__(self, case: Case, way: str) -> None:
        self.way = way
        self.caller = case.caller()
        self.caller.send(_REQUESTS[way](case))
        self.caller.read_to(PIECES[0] if way.endswith("1.0") else PIECES[0] + b"\r\n")

    def rest(self) -> bytes:
        """Return all that comes after the first chunk, until the other side closes."""
        return self.caller.until_closed()


# How a request has to look to go this way.
_REQUESTS = {
    "relay": lambda case: case.head("POST", "", "Content-Length: 2", "Connection: close") + b"{}",
    "view": lambda case: (
        case.head("POST", "", "Transfer-Encoding: chunked", "Connection: close")
        + b"2\r\n{}\r\n0\r\n\r\n"
    ),
    "view, HTTP/1.0": lambda case: case.head("GET", "", version="1.0"),
}
WAYS = tuple(_REQUESTS)
_CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in PIECES[1:])
WHOLE = {  # what comes after the first piece, to the end of the answer
    "relay": _CHUNKS + b"0\r\n\r\n",
    "view": _CHUNKS + b"0\r\n\r\n",
    "view, HTTP/1.0": b"".join(PIECES[1:]),
}


@contextmanager
def running_web(folder: Path, **env: str) -> Iterator[Way]:
    """Run Redis and the web tier as it is configured."""
    with local_fleet(folder) as fleet:
        fleet.start_web(RUN_DIR=str(folder / "web-run"), **{"PROXY_ALLOW_PATHS": "/v1/*", **env})
        yield Way("relay", fleet)


def master_of(way: Way) -> Process:
    """Return gunicorn's master, as it was started."""
    return way.fleet.processes[0]


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children; none for one that has ended."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found]


def serving(way: Way) -> list[int]:
    """Return the pids of the master's web processes."""
    return children_of(master_of(way).popen.pid)


def has_ended(pid: int) -> bool:
    """Return whether there is no such process, not even a dead one that nobody has waited for."""
    return not Path(f"/proc/{pid}").exists()


def descriptors_of(pid: int) -> int:
    """Return how many descriptors a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names, many of them


def callers_of(pid: int, port: int) -> int:
    """Return how many connections to that port of ours a process holds."""
    inodes = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _ESTABLISHED and int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    held = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            held += str(link.readlink()) in inodes
    return held


def cpu_seconds(pid: int) -> float:
    """Return how long a process has run on a CPU."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metric(way: Way, name: str, labels: dict[str, str]) -> float:
    """Return the sum of the samples of that name and those labels in /metrics."""
    text = requests.get(f"{way.fleet.base}/metrics", timeout=20).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


class Asking:
    """Someone who all the while asks over new connections, and remembers what went wrong."""

    def __init__(self, case: Case) -> None:
        self.answered = 0
        self.slowest = 0.0  # seconds from connecting to the end of the answer
        self.wrong: list[str] = []
        self._address = case.way.address
        self._requests = (
            case.head("GET", "/healthz", "Connection: close"),
            case.head("GET", "", "Connection: close"),
        )
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join(60)

    def goes_on(self, times: int = 10) -> bool:
        """Return whether it is answered that many times more, and always was."""
        before = self.answered
        until(lambda: self.answered >= before + times or self.wrong, 20)
        return self.answered >= before + times and not self.wrong

    def _ask(self) -> None:
        for request in cycle(self._requests):
            if self._enough.wait(0.005):
                return
            began = monotonic()
            try:
                caller = Caller(self._address)
                caller.send(request)
                answer = caller.answer()
                caller.close()
            except (OSError, AssertionError) as error:
                self.wrong.append(repr(error))
                continue
            self.slowest = max(self.slowest, monotonic() - began)
            if answer.status == 200 and answer.whole:
                self.answered += 1
            else:
                self.wrong.append(str(answer))
