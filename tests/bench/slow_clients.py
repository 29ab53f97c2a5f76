"""What 500 slow-header and 500 slow-body clients cost everyone else: a program.

`python -m tests.bench.slow_clients` prints the latency of a relayed request and of one that the
application answers, in turns without and with the slow ones, all on this machine.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from contextlib import closing, suppress
from itertools import cycle
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median, quantiles
from time import monotonic, perf_counter

from tests.integration.conformance import Case, Way
from tests.integration.web_processes import running_web

_SLOW = 500  # of each kind
_BYTES_PER_S = 1000  # of all of them together: each sends one a second
_ROUNDS = 5
_ROUND_S = 3.0
_SETTLE_S = 1.5  # for the slow ones to connect, or to leave

Latencies = dict[str, dict[str, list[float]]]


def main() -> None:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_web(Path(folder), WEB_PROCESSES="1") as way,
        closing(Case(way)) as case,
    ):
        for line in told(measured(way, case)):
            print(line)  # noqa: T201 - what it is for


def measured(way: Way, case: Case) -> Latencies:
    """Return kind of request → without or with slow clients → seconds of each answer.

    Raises:
        AssertionError: an answer was not whole, or not 200.
    """
    wanted = {"relayed": case.head("GET"), "application": case.head("GET", "/healthz")}
    found: Latencies = {kind: {"without": [], "with": []} for kind in wanted}
    begun = [
        case.head("GET")[:-2] + b"X-Slow: ",
        case.head("POST", "", "Content-Length: 1000000"),
    ]
    context = multiprocessing.get_context("spawn")
    on, ended = context.Event(), context.Event()
    slow = context.Process(target=drip, args=(way.address, begun, on, ended), daemon=True)
    slow.start()
    try:
        for _ in range(_ROUNDS):
            for turn in ("without", "with"):
                (on.set if turn == "with" else on.clear)()
                ended.wait(_SETTLE_S)
                for kind, request in wanted.items():
                    found[kind][turn] += latencies(case, request, _ROUND_S / len(wanted))
    finally:
        ended.set()
        on.set()
        slow.join()
    return found


def latencies(case: Case, request: bytes, seconds: float) -> list[float]:
    """Ask one thing after the other over one connection; return how long each answer took."""
    found = []
    caller = case.caller()
    until = monotonic() + seconds
    while monotonic() < until:
        began = perf_counter()
        caller.send(request)
        answer = caller.answer()
        found.append(perf_counter() - began)
        assert (answer.status, answer.whole) == (200, True), answer
    caller.close()
    return found


def drip(address: tuple[str, int], begun: list[bytes], on: Event, ended: Event) -> None:
    """Be the slow clients, a process of its own: connected while `on` is set, until `ended` is."""
    while not ended.is_set():
        on.wait()
        clients = []
        for start, _ in zip(cycle(begun), range(_SLOW * len(begun)), strict=False):
            clients.append(socket.create_connection(address))
            clients[-1].sendall(start)
        for client in cycle(clients):
            if not on.is_set() or ended.wait(1 / _BYTES_PER_S):
                break
            with suppress(OSError):  # its time was up
                client.send(b"a")
        for client in clients:
            client.close()
        if ended.is_set():
            return


def told(found: Latencies) -> list[str]:
    """Return the lines to print."""
    lines = [f"{_SLOW} slow-header and {_SLOW} slow-body clients; milliseconds:"]
    for kind, turns in found.items():
        for turn, seconds in turns.items():
            p99 = quantiles(seconds, n=100)[98]
            lines.append(
                f"{kind:12} {turn:8} p50 {median(seconds) * 1e3:6.2f}  p99 {p99 * 1e3:6.2f}"
                f"  max {max(seconds) * 1e3:6.2f}  of {len(seconds)}"
            )
    return lines


if __name__ == "__main__":
    main()
