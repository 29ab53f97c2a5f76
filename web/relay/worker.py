"""The gunicorn worker: `worker_class = "web.relay.worker.RelayWorker"`.

Its event loop accepts and relays; its threads run the Flask application for whatever is not plain.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys

import uvloop

from web.gunicorn_worker import JsonErrorWorker
from web.relay.relay import TICK_S, Limits, Parts, Relay
from web.relay.threads import Threads

_LAST_REQUESTS_S = 2.0  # when it stops, for requests already on their way over idle connections
_SWITCH_INTERVAL_S = 0.0005  # a busy thread gives way to the event loop ten times sooner


class RelayWorker(JsonErrorWorker):
    """One web process: an event loop for bytes, and threads for the application."""

    def init_process(self) -> None:
        """Prepare the loop; the base class loads the application and calls `run`."""
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._quitting = False
        self._accepting_from: list[socket.socket] = []
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        super().init_process()

    def init_signals(self) -> None:
        """Take signals in the loop, between two of its callbacks."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for number, act in (
            (signal.SIGTERM, self._stop),
            (signal.SIGQUIT, self._quit),
            (signal.SIGINT, self._quit),
            (signal.SIGUSR1, self.log.reopen_files),
        ):
            self._loop.add_signal_handler(number, act)
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)

    def run(self) -> None:
        """Serve until asked to stop, then until what is under way has ended."""
        gc.collect()
        gc.freeze()  # what was loaded stays: no later collection needs to look at it
        self._loop.run_until_complete(self._serve())
        if self._threads.busy:  # the interpreter would wait for them at its end
            logging.shutdown()
            os._exit(0)

    async def _serve(self) -> None:
        parts: Parts = self.wsgi.extensions["relay"]
        self._relay = Relay(
            self._loop,
            parts.admission,
            parts.activity,
            parts.metrics,
            Limits.of(parts.settings, keep_alive_s=self.cfg.keepalive),
        )
        self._threads = Threads(self._relay, self.tpool, self.cfg.threads, self.handle, self.cfg)
        self._relay.give_to_thread = self._threads.take
        while self.alive and self.is_parent_alive():
            self._tick()
            self._accept_while_there_is_room()
            await asyncio.sleep(TICK_S)
        self._stop_accepting()
        await self._drain()

    def _tick(self) -> None:
        self.notify()
        self._relay.tick()

    async def _drain(self) -> None:
        """Let what is under way end, up to the deadline; new connections go to other processes."""
        relay, loop = self._relay, self._loop
        relay.draining = True
        began = loop.time()
        while loop.time() - began < self.cfg.graceful_timeout and not self._quitting:
            self._tick()
            if loop.time() - began >= _LAST_REQUESTS_S:
                relay.close_idle()
            if not relay.callers and not self._threads.busy:
                return
            await asyncio.sleep(TICK_S)

    def _stop(self) -> None:
        self.alive = False

    def _quit(self) -> None:
        self.alive = False
        self._quitting = True

    # new connections

    def _accept_while_there_is_room(self) -> None:
        here = len(self._relay.callers) + self._threads.busy
        if here >= self.cfg.worker_connections:
            self._stop_accepting()
        elif not self._accepting_from:
            self._accepting_from = list(self.sockets)
            for listener in self._accepting_from:
                listener.setblocking(False)  # noqa: FBT003 - the standard library's own
                self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _stop_accepting(self) -> None:
        for listener in self._accepting_from:
            self._loop.remove_reader(listener.fileno())
        self._accepting_from = []

    def _accept(self, listener: socket.socket) -> None:
        # One at a time, so that another process that woke for the same burst has its share.
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors left: until the next tick
            self.log.warning("cannot accept: %s", error)
            self._stop_accepting()
            return
        self._relay.adopt(connection)
