"""A TCP proxy that slows down, holds back, cuts: a bad network, where no namespace may be made."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from time import monotonic

_CHUNK = 65_536


class FaultProxy:
    """Listens on loopback, passes bytes on to a Unix socket; how badly can be changed any time."""

    def __init__(self, target: str) -> None:
        """Begin to listen; `target` is the path of the socket behind."""
        self.latency_s = 0.0  # of each piece, each way
        self.jitter_s = 0.0  # at most, on top of it
        self.holds_asked = False  # bytes towards the target wait
        self.holds_answered = False  # bytes from the target wait
        self._target = target
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Return the URL of the Redis behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def hold(self, *, asked: bool = True, answered: bool = True) -> None:
        """Let nothing through any more, without a word to either side."""
        self.holds_asked, self.holds_answered = asked, answered

    def heal(self) -> None:
        """Be a good network again; what was held back while nobody closed arrives now."""
        self.latency_s = self.jitter_s = 0.0
        self.holds_asked = self.holds_answered = False

    def close(self) -> None:
        """Cut everything."""
        self._over.set()
        self._listener.close()
        with self._lock:
            for end in self._sockets:
                _close(end)

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            try:
                engine.connect(self._target)
            except OSError:
                caller.close()
                continue
            with self._lock:
                self._sockets = [s for s in self._sockets if s.fileno() >= 0] + [caller, engine]
            for source, target, asks in ((caller, engine, True), (engine, caller, False)):
                threading.Thread(
                    target=self._pass_on, args=(source, target, asks), daemon=True
                ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                self._travel(asks=asks)
                target.sendall(data)
        while self._held(asks=asks) and not self._over.is_set():
            self._over.wait(0.05)  # the other side hears of the end no sooner than of the rest
        _close(source)
        _close(target)

    def _travel(self, *, asks: bool) -> None:
        arrives = monotonic() + self.latency_s + random.random() * self.jitter_s  # noqa: S311
        while not self._over.is_set() and (self._held(asks=asks) or monotonic() < arrives):
            self._over.wait(0.02 if self._held(asks=asks) else max(0.0, arrives - monotonic()))

    def _held(self, *, asks: bool) -> bool:
        return self.holds_asked if asks else self.holds_answered


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
