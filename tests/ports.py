"""Ports for tests: each process that tests on this machine has a range of its own.

Several pytest workers run at once, and so do other people's. A port that is merely free at the
moment is also free to the neighbour, who binds it first; a range that is locked is not.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from functools import cache
from pathlib import Path

from tests.demo.fleet import free_ports

_FIRST = 10_000
_RANGES = 45  # the kernel gives clients ports from 32768 on, see ip_local_port_range
_EACH = 500

_next = 0  # of our range, to be given next: one that was just given up may not be free yet


def ports(count: int = 1) -> int:
    """Return the first of `count` free ports in a row, which nobody else who tests will take."""
    global _next  # noqa: PLW0603 - one range per process, however many fleets it runs
    first = _own_range()
    if _next + count > _EACH:
        _next = 0
    found = free_ports(count, first=first + _next)
    if found + count > first + _EACH:
        _next = 0
        found = free_ports(count, first=first)
        assert found + count <= first + _EACH, "no free ports in this process's range"
    _next = found + count - first
    return found


def own_number() -> int:
    """Return a number from 0 to 44 that no other process has that tests on this machine."""
    return (_own_range() - _FIRST) // _EACH


@cache
def _own_range() -> int:
    """Return the first port of a range that is ours until this process ends."""
    folder = Path(tempfile.gettempdir()) / "vllm-fleet-test-ports"
    folder.mkdir(exist_ok=True)
    for number in range(_RANGES):
        descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        return _FIRST + number * _EACH  # held, open, until this process ends
    raise AssertionError(f"{_RANGES} processes test on this machine already")
