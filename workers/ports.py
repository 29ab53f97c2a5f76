"""Which ports of this node are free for an engine."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable
from pathlib import Path

from shared.errors import NoCapacity

_OF_NOBODY = "0"  # inode of a socket that no process holds: TIME_WAIT
_TIME_WAIT = "06"  # /proc/net/tcp; the kernel's include/net/tcp_states.h


def choose_port(host: str, ports: Iterable[int], taken: Collection[int]) -> int:
    """Return the first of `ports` that is neither in `taken` nor held by any process.

    One on which nothing but ended connections linger comes last: no process is seen to hold it,
    and with few ports the minute until they are gone would be a minute without a start.

    Raises:
        NoCapacity: none is free.
    """
    tried = [port for port in ports if port not in taken]
    for will_do in (is_free, is_released):
        for port in tried:
            if will_do(host, port):
                return port
    raise NoCapacity(f"no free port among {len(tried)} tried from VLLM_BASE_PORT on")


def is_free(host: str, port: int) -> bool:
    """Return whether no process holds `port`, listening or not.

    A plain bind, without SO_REUSEADDR: vLLM binds before it loads and listens long after, and in
    between a connect or a reusing bind calls its port free (measured).
    """
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def is_released(host: str, port: int) -> bool:
    """Return whether an engine that is gone has let go of `port`.

    Ended connections may keep it from a plain bind for a minute (TIME_WAIT); no process holds
    those.
    """
    return is_free(host, port) or (
        (states := _connection_states(port)) != set() and states <= {_TIME_WAIT}
    )


def sockets_on(port: int) -> set[str]:
    """Return the inodes of sockets on `port` that some process holds.

    One that is bound and neither listens nor is connected is in no table, see proc(5).
    """
    return {inode for _, inode in _sockets(port)} - {_OF_NOBODY}


def _connection_states(port: int) -> set[str]:
    return {state for state, _ in _sockets(port)}


def _sockets(port: int) -> set[tuple[str, str]]:
    """Return state and inode of each socket whose local port is `port`."""
    found: set[tuple[str, str]] = set()
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if int(local.rsplit(":", 1)[1], 16) == port:
                found.add((state, inode))
    return found


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
