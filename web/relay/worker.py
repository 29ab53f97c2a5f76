"""The gunicorn worker: `worker_class = "web.relay.worker.RelayWorker"`.

Its event loop accepts and relays; its threads run the Flask application for whatever is not plain.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial

import uvloop

from web.relay.loads import Load
from web.relay.pump import Pump, new_pump
from web.relay.relay import TICK_S, Limits, Parts, Relay
from web.relay.request import PlainRequest
from web.relay.threads import Threads
from web.serving.booting import hear_signals
from web.serving.gunicorn_worker import JsonErrorWorker

_OWN_DESCRIPTORS = 128  # Redis, logs, modules, the loop's; besides those of connections
_LEAVES_S = 0.002  # a new connection to a process that has fewer
_MOST_AT_ONCE = 64  # taken by one that nobody relieves
_SWITCH_INTERVAL_S = 0.0005  # a busy thread gives way to the event loop ten times sooner


class RelayWorker(JsonErrorWorker):
    """One web process: an event loop for bytes, and threads for the application."""

    load: Load  # from the master, before this process begins

    def init_process(self) -> None:
        """Prepare the loop; the base class loads the application and calls `run`."""
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._quitting = False
        self._accepting_from: list[socket.socket] = []
        self._most_connections = _most_connections(self.cfg.worker_connections)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        super().init_process()

    def init_signals(self) -> None:
        """Take signals from the beginning: while the application loads, the loop cannot."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for number, act in self._on_signals().items():
            signal.signal(number, partial(_act, act))
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)
        hear_signals()

    def _on_signals(self) -> dict[int, Callable[[], None]]:
        return {
            signal.SIGTERM: self._stop,
            signal.SIGQUIT: self._quit,
            signal.SIGINT: self._quit,
            signal.SIGUSR1: self.log.reopen_files,
        }

    def run(self) -> None:
        """Serve until asked to stop, then until what is under way has ended."""
        gc.collect()
        gc.freeze()  # what was loaded stays: no later collection needs to look at it
        self._parts: Parts = self.wsgi.extensions["relay"]
        self._loop.run_until_complete(self._serve())
        if self._threads.busy:  # the interpreter would wait for them at its end
            self._parts.metrics.close()
            logging.shutdown()
            os._exit(0)

    async def _serve(self) -> None:
        for number, act in self._on_signals().items():  # now between two of the loop's callbacks
            self._loop.add_signal_handler(number, act)
        parts = self._parts
        self._relay = Relay(
            self._loop,
            parts,
            Limits.of(parts.settings, keep_alive_s=self.cfg.keepalive),
            log_access=self._log_access if self.cfg.accesslog else None,
            pump=self._new_pump(),
        )
        self._threads = Threads(self._relay, self.tpool, self.cfg.threads, self.handle, self.cfg)
        self._relay.give_to_thread = self._threads.take
        while self.alive and self.is_parent_alive():
            self._tick()
            self._accept_while_there_is_room()
            await asyncio.sleep(TICK_S)
        self._stop()  # for the threads, too: their answers are the last of their connections
        parts.followers.close()  # they go on at another process
        self._stop_accepting()
        self.load.leave()
        if not self._quitting:
            self._relay.drain()
            self._leave_the_port()
            await self._drain()
        await self._cut()

    def _new_pump(self) -> Pump | None:
        if not self._parts.settings.proxy_compiled:
            return None
        return new_pump(self._loop, self._most_connections)

    def _tick(self) -> None:
        self.notify()
        self._relay.tick()

    async def _drain(self) -> None:
        """Let what is under way end, up to the deadline; new connections go to other processes."""
        relay, loop = self._relay, self._loop
        deadline = loop.time() + self._parts.settings.web_graceful_timeout_s
        while loop.time() < deadline and not self._quitting:
            self._tick()
            if not relay.connections and not self._threads.busy:
                return
            await asyncio.sleep(TICK_S)

    async def _cut(self) -> None:
        cut = self._relay.cut() + self._threads.busy
        if cut:
            self.log.warning("requests cut: %d", cut)
        await asyncio.sleep(0)  # each hears of its end, and is counted

    def _stop(self) -> None:
        self.alive = False

    def _quit(self) -> None:
        self.alive = False
        self._quitting = True

    # new connections

    @property
    def _connections(self) -> int:
        return self._relay.connections + self._threads.busy

    @property
    def _has_room(self) -> bool:
        return self._connections < self._most_connections

    def _accept_while_there_is_room(self) -> None:
        if not self._has_room:
            self.load.leave()
            return
        self.load.tell(self._connections)
        if not self._accepting_from:
            self._accepting_from = list(self.sockets)
            for listener in self._accepting_from:
                listener.setblocking(False)  # noqa: FBT003 - the standard library's own
                self._loop.add_reader(listener.fileno(), self._somebody_came, listener)

    def _stop_accepting(self) -> None:
        for listener in self._accepting_from:
            self._loop.remove_reader(listener.fileno())
        self._accepting_from = []

    def _somebody_came(self, listener: socket.socket) -> None:
        # Processes share one socket, which they inherit. With a socket for each (SO_REUSEPORT) the
        # kernel would deal connections out blindly, to a busy process as to an idle one, and reset
        # those that one which ends has not accepted yet.
        if self.load.is_above(self._connections):
            self._loop.remove_reader(listener.fileno())
            self._loop.call_later(_LEAVES_S, self._take_what_is_left, listener)
        else:  # one at a time, so that another process that woke for the same burst has its share
            self._accept(listener)

    def _take_what_is_left(self, listener: socket.socket) -> None:
        if listener not in self._accepting_from:
            return
        for _ in range(_MOST_AT_ONCE):
            if not self._accept(listener):
                break
        if listener in self._accepting_from:
            self._loop.add_reader(listener.fileno(), self._somebody_came, listener)

    def _leave_the_port(self) -> None:
        """Take who waits there, then let go of it: who connects to nobody is to hear so at once."""
        for listener in self.sockets:
            listener.setblocking(False)  # noqa: FBT003 - the standard library's own
            while self._has_room and self._accept(listener):
                pass
            listener.close()

    def _accept(self, listener: socket.socket) -> bool:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:  # no descriptors left: until the next tick
            self.log.warning("cannot accept: %s", error)
            self._stop_accepting()
            return False
        self._relay.adopt(connection)
        if not self.alive:
            return True
        self.load.tell(self._connections)
        if self._has_room:
            return True
        self._stop_accepting()
        return False

    def _log_access(
        self, peer: object, request: PlainRequest, status: int, seconds: float, request_id: bytes
    ) -> None:
        address = peer[0] if isinstance(peer, tuple) else peer
        self.log.access_log.info(
            '%s "%s %s%s" %d %.3fs %s',
            address,
            request.method.decode(),
            f"/proxy/{request.instance_id}" if request.instance_id else "",
            request.path,
            status,
            seconds,
            request_id.decode(),
        )


def _act(act: Callable[[], None], _number: int, _frame: object) -> None:
    act()


def _most_connections(wanted: int) -> int:
    """Raise this process's limit of descriptors as far as it needs and may; return what fits.

    A connection that is relayed takes two descriptors.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (soft - _OWN_DESCRIPTORS) // 2))
