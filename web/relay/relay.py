"""What all connections of one web process share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from shared.address import authority
from shared.domain.instance import Instance
from shared.errors import EngineUnreachable, FleetError
from shared.settings import Settings
from web.activity import Activity
from web.metrics import Metrics
from web.relay.admission import Admission
from web.relay.caller import CallerConnection
from web.relay.engine import Clock, EngineConnection, Pool

TICK_S = 0.25
"""How exact deadlines are."""

GiveToThread = Callable[[socket.socket, bytes, object, bool], None]
"""Connection, what was read of it, its peer, and whether that is a whole request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the application shares with the relay of its process: `app.extensions["relay"]`."""

    settings: Settings
    admission: Admission
    activity: Activity
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What callers and engines are held to: seconds and bytes."""

    header_timeout_s: float
    body_timeout_s: float
    connect_timeout_s: float
    first_byte_timeout_s: float
    idle_timeout_s: float
    keep_alive_s: float
    max_body: int
    max_header_bytes: int
    max_headers: int

    @classmethod
    def of(cls, settings: Settings, *, keep_alive_s: float) -> Limits:
        """Return the limits that the settings give."""
        return cls(
            header_timeout_s=settings.proxy_header_timeout_s,
            body_timeout_s=settings.proxy_body_timeout_s,
            connect_timeout_s=settings.proxy_connect_timeout_s,
            first_byte_timeout_s=settings.proxy_first_byte_timeout_s,
            idle_timeout_s=settings.proxy_idle_timeout_s,
            keep_alive_s=keep_alive_s,
            max_body=settings.proxy_max_body,
            max_header_bytes=settings.proxy_max_header_bytes,
            max_headers=settings.proxy_max_headers,
        )


class Relay:
    """Moves requests to engines and answers back, on one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        admission: Admission,
        activity: Activity,
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        """Serve on `loop`."""
        self.loop = loop
        self.admission = admission
        self.activity = activity
        self.metrics = metrics
        self.limits = limits
        self.give_to_thread: GiveToThread  # takes connections that need the application
        self.time = perf_counter
        self.clock = Clock(TICK_S, loop.time())
        self.pool = Pool(self.clock)
        self.callers: set[CallerConnection] = set()
        self.tunnels: set[CallerConnection] = set()  # those of them that are WebSockets by now
        self.draining = False
        self.idle_until = self.clock.now + limits.idle_timeout_s  # of what moves now
        self._adopting: set[asyncio.Task[object]] = set()

    def tick(self) -> None:
        """Read the clock; end what has lasted too long."""
        now = self.loop.time()
        self.clock.set(now)
        self.idle_until = now + self.limits.idle_timeout_s
        for caller in [caller for caller in self.callers if caller.deadline <= now]:
            caller.expire()
        for caller in list(self.tunnels):
            caller.check_key()
        self.pool.sweep()

    def adopt(
        self, connection: socket.socket, unread: bytes = b"", *, ending: bool = False
    ) -> None:
        """Serve a caller's connection.

        Args:
            connection: nothing else reads or writes it.
            unread: what was already read of it.
            ending: it has had its last answer; throw away what still comes, then close.
        """
        connection.setblocking(False)  # noqa: FBT003 - the standard library's own
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made = CallerConnection(self, unread, ending=ending)
        task = self.loop.create_task(self.loop.connect_accepted_socket(lambda: made, connection))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def dial(self, instance: Instance) -> EngineConnection:
        """Connect to an instance's engine.

        Raises:
            OSError, TimeoutError: nothing was sent.
        """
        address = (instance.host, instance.port or 0)
        _, engine = await asyncio.wait_for(
            self.loop.create_connection(lambda: EngineConnection(self.pool, address), *address),
            self.limits.connect_timeout_s,
        )
        return engine

    def no_connection(self, instance: Instance, error: Exception) -> FleetError:
        """Return what a caller is told whose engine takes no connection."""
        if isinstance(error, ConnectionRefusedError) and (told := self.admission.gone(instance)):
            return told
        why = str(error) or f"no answer in {self.limits.connect_timeout_s:g} s"
        at = authority(instance.host, instance.port)
        return EngineUnreachable(f"engine at {at} takes no connection: {why}")

    def close_idle(self) -> None:
        """Close all connections on which no request is under way."""
        for caller in list(self.callers):
            caller.close_if_idle()
