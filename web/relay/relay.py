"""What all connections of one web process share."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from shared.address import authority
from shared.domain.instance import Instance
from shared.errors import EngineUnreachable, FleetError, NoCapacity
from shared.settings import Settings
from web.control.following import Followers
from web.metrics.answered import Metrics
from web.models.router import Router
from web.proxy.engine_socket import notice_lost_host
from web.proxy.makers import Makers
from web.relay.admission import Admission
from web.relay.caller import CallerConnection
from web.relay.clock import Clock
from web.relay.engine import EngineConnection
from web.relay.kept import Kept
from web.relay.model_caller import ModelCaller
from web.relay.pool import Pool
from web.relay.pump import Pump
from web.relay.request import PlainRequest
from web.tables.activity import Activity

TICK_S = 0.25
"""How exact deadlines are."""

_LAST_REQUESTS_S = 2.0  # of a process that stops, for requests already on their way to it
_NOTHING_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS})

GiveToThread = Callable[[socket.socket, bytes, object, bool, Kept | None], None]
"""Connection, what was read of it, its peer, whether that is a whole request, and what was read
after that."""

LogAccess = Callable[[object, PlainRequest, int, float, bytes], None]
"""Peer, request, status, seconds, and request id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the application shares with the relay of its process: `app.extensions["relay"]`."""

    settings: Settings
    admission: Admission
    router: Router
    makers: Makers
    activity: Activity
    metrics: Metrics
    followers: Followers


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
        parts: Parts,
        limits: Limits,
        *,
        log_access: LogAccess | None,
        pump: Pump | None = None,
    ) -> None:
        """Serve on `loop`.

        Args:
            loop: of this process.
            parts: what the application shares.
            limits: what callers and engines are held to.
            log_access: told of each answer that has ended.
            pump: for long streams; without it they pass through Python.
        """
        self.loop = loop
        self.admission = parts.admission  # who may pass, and where to
        self.router = parts.router  # which replica a model's request goes to
        self.makers = parts.makers  # told of stored responses
        self.activity = parts.activity  # told of what begins and ends
        self.metrics = parts.metrics  # told of each answer
        self.limits = limits
        self.log_access = log_access
        self.keep_alive_s = limits.keep_alive_s  # less once it drains
        self.give_to_thread: GiveToThread  # takes connections that need the application
        self.time = perf_counter
        self.clock = Clock(TICK_S, loop.time(), limits.idle_timeout_s)
        self.pool = Pool(self.clock)
        self._pump = pump
        self.callers: set[CallerConnection] = set()
        self.tunnels: set[CallerConnection] = set()  # those of them that are WebSockets by now
        self.held: set[ModelCaller] = set()  # those of them that wait for a model
        self.kept = 0  # bytes of long bodies that are in files
        self.gathering = 0  # bytes of requests for models that are still to come
        self.draining = False
        self._adopting: set[asyncio.Task[object]] = set()

    def tick(self) -> None:
        """Read the clock; end what has lasted too long."""
        now = self.loop.time()
        self.clock.set(now)
        if self._pump is not None:
            self._pump.tick()
        for caller in [caller for caller in self.callers if caller.deadline <= now]:
            caller.expire()
        for caller in list(self.tunnels):
            caller.check_key()
        for held in list(self.held):
            held.tell_how_far(now)
        self.pool.sweep()

    @property
    def connections(self) -> int:
        """How many callers' connections are here."""
        return len(self.callers) + len(self._adopting)

    def adopt(self, connection: socket.socket) -> None:
        """Serve a caller's new connection, which nothing else reads or writes."""
        wait_s = min(self.limits.header_timeout_s, self.keep_alive_s)
        self._serve(connection, ModelCaller(self, wait_s))

    def take_back(self, connection: socket.socket, unread: bytes, *, ending: bool) -> None:
        """Go on with a connection that a thread had.

        Args:
            connection: nothing else reads or writes it.
            unread: what was already read of it.
            ending: it has had its last answer; throw away what still comes, then close.
        """
        self._serve(connection, ModelCaller(self, self.keep_alive_s, unread=unread, ending=ending))

    def _serve(self, connection: socket.socket, made: CallerConnection) -> None:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's own
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
            self.loop.create_connection(
                lambda: EngineConnection(self.pool, address, self._pump), *address
            ),
            self.limits.connect_timeout_s,
        )
        notice_lost_host(engine.transport.get_extra_info("socket"), instance.host)
        return engine

    def no_connection(self, instance: Instance, error: Exception) -> FleetError:
        """Return what a caller is told whose engine takes no connection."""
        if isinstance(error, ConnectionRefusedError) and (told := self.admission.gone(instance)):
            return told
        if isinstance(error, OSError) and error.errno in _NOTHING_LEFT:
            return NoCapacity(f"web process: no connection to the engine can be made: {error}")
        if lost := self.admission.unreached(instance):
            return lost
        why = str(error) or f"no answer in {self.limits.connect_timeout_s:g} s"
        at = authority(instance.host, instance.port)
        return EngineUnreachable(f"engine at {at} takes no connection: {why}")

    def drain(self) -> None:
        """Take each further request for the last one of its connection.

        Whoever asks nothing more is left within two seconds, not at once: a request may be on its
        way, and nobody could tell its caller that it was not begun.
        """
        self.draining = True
        self.keep_alive_s = min(self.keep_alive_s, _LAST_REQUESTS_S)
        for caller in self.callers:
            caller.hasten(self.loop.time() + self.keep_alive_s)

    def cut(self) -> int:
        """Break what is under way; return how many requests that ends."""
        cut = [caller for caller in self.callers if caller.is_relaying]
        for caller in list(self.callers):
            caller.transport.abort()
        return len(cut)
