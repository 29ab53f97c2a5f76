"""Connections to engines that wait for their next request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from web.relay.clock import Clock

if TYPE_CHECKING:
    from web.relay.engine import EngineConnection

IDLE_S = 4.0
"""How long a connection may wait for its next request: uvicorn closes it after 5 s."""

_NONE_KEPT_S = 60.0  # to an engine that closes earlier than that

Address = tuple[str, int]


class Pool:
    """The waiting connections, by address."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._idle: dict[Address, list[EngineConnection]] = {}
        self._closing: dict[Address, float] = {}  # until when none is kept to these

    def take(self, address: Address) -> EngineConnection | None:
        """Return an open connection to the engine, if there is one fresh enough."""
        waiting = self._idle.get(address)
        while waiting:
            connection = waiting.pop()  # the one used last: the others grow old and are closed
            if self._is_fresh(connection):
                return connection
            connection.transport.abort()
        return None

    def put(self, connection: EngineConnection) -> None:
        """Keep a connection for the next request."""
        if self._closing and connection.address in self._closing:
            connection.transport.abort()
            return
        connection.idle_since = self.clock.now
        waiting = self._idle.get(connection.address)
        if waiting is None:
            waiting = self._idle[connection.address] = []
        waiting.append(connection)

    def closed_early(self, connection: EngineConnection) -> None:
        """Hear that the engine closed a connection that was, or could have been, kept.

        Its next idle ones could close just as a request is on its way, and such a request cannot
        be sent again; so none is kept for a while.
        """
        self._closing[connection.address] = self.clock.now + _NONE_KEPT_S
        waiting = self._idle.get(connection.address, [])
        if connection in waiting:
            waiting.remove(connection)

    def sweep(self) -> None:
        """Close what has waited too long."""
        for address, until in list(self._closing.items()):
            if until <= self.clock.now:
                del self._closing[address]
        for address, waiting in list(self._idle.items()):
            fresh = [connection for connection in waiting if self._is_fresh(connection)]
            for connection in waiting:
                if connection not in fresh:
                    connection.transport.abort()
            if fresh:
                self._idle[address] = fresh
            else:
                del self._idle[address]

    def _is_fresh(self, connection: EngineConnection) -> bool:
        # The clock stands still between ticks, so count a tick more.
        waited = self.clock.now + self.clock.tick_s - connection.idle_since
        return waited < IDLE_S and not connection.transport.is_closing()
