"""How long a connection to an engine lives without a sign from the other machine.

A machine that loses power, or its network, closes nothing: a request that waits for its answer
there would wait until PROXY_FIRST_BYTE_TIMEOUT is over. The kernel finds out sooner: it asks a
silent connection for a sign, and gives up what is not acknowledged (tcp(7)). An engine that is only
slow answers such probes all the same, for its kernel does.
"""

from __future__ import annotations

import socket
from typing import Protocol

_SILENT_S = 10  # before the first probe
_BETWEEN_S = 5  # probes
_PROBES = 3
_UNACKNOWLEDGED_MS = 25_000
_LOOPBACK = ("127.", "::1")


class _Socket(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def notice_lost_host(connection: _Socket, host: str) -> None:
    """Have a connection end within half a minute once the machine at its other end is gone."""
    if host.startswith(_LOOPBACK):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _BETWEEN_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
