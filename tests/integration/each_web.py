"""What each web process says: they share one port, so a connection is first traced to its owner."""

from __future__ import annotations

import socket
from collections.abc import Collection
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.harness import LocalFleet, Process

_ESTABLISHED = "01"
_MOST_CONNECTIONS = 64  # until each has one: who has more leaves the next one to the other
_ACCEPTED_S = 5.0
_LOOK_S = 0.002


def statuses(fleet: LocalFleet, web: Process, path: str) -> dict[int, int]:
    """Return with which status each process of `web` answers a GET of `path`, by its pid."""
    master = web.popen.pid
    pids = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    found: dict[int, int] = {}
    held: list[HTTPConnection] = []
    try:
        while len(found) < len(pids):
            assert len(held) < _MOST_CONNECTIONS, f"only {sorted(found)} of {pids} take connections"
            held.append(HTTPConnection("127.0.0.1", urlsplit(fleet.base).port, timeout=10))
            held[-1].connect()
            pid = _owner(held[-1].sock, pids)
            if pid not in found:
                held[-1].request("GET", path)
                found[pid] = held[-1].getresponse().status
    finally:
        for connection in held:
            connection.close()
    return found


def shortest_table(fleet: LocalFleet) -> int:
    """Return how many instances the shortest routing table of all web processes holds."""
    text = requests.get(f"{fleet.base}/metrics", timeout=20).text
    (table,) = (
        family
        for family in text_string_to_metric_families(text)
        if family.name == "fleet_routing_table_instances"
    )
    return int(table.samples[0].value)


def _owner(ours: socket.socket, pids: Collection[str]) -> int:
    """Return which of these processes has the other end of a connection."""
    mine, theirs = ours.getsockname()[1], ours.getpeername()[1]
    for _ in range(int(_ACCEPTED_S / _LOOK_S)):
        for pid in pids:
            with suppress(OSError):
                if _inode(pid, theirs, mine) in _sockets(pid):
                    return int(pid)
        Event().wait(_LOOK_S)
    raise AssertionError(f"none of {pids} has accepted a connection within {_ACCEPTED_S:g} s")


def _inode(pid: str, local: int, remote: int) -> str:
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(end.rpartition(":")[2], 16) for end in fields[1:3]]
        if ports == [local, remote] and fields[3] == _ESTABLISHED:
            return f"socket:[{fields[9]}]"
    return ""


def _sockets(pid: str) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.add(str(link.readlink()))
    return found
