"""An engine that keeps every byte it gets and answers, byte for byte, as a test tells it.

Its requests are read by h11, which knows nothing of ours: what h11 makes of the bytes is what an
engine would do. uvicorn, which vLLM listens with, reads them with h11 or with httptools.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import h11

_KEPT = 1024 * 1024  # bytes of a body; a longer one is known by its hash
_PATIENCE_S = 20.0

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'


class Left(Exception):
    """The other side closed its connection."""


@dataclass(slots=True)
class Received:
    """One request, as h11 reads it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    pieces: list[tuple[float, bytes]] = field(default_factory=list)  # with monotonic times
    length: int = 0
    digest: str = ""
    complete: bool = False
    gone_at: float | None = None  # monotonic time at which the other side closed

    def header(self, name: str) -> str | None:
        """Return the values of a header joined by commas; None if it is not there."""
        values = [value for key, value in self.headers if key == name]
        return ",".join(values) if values else None


class Talk:
    """One connection with a request on it, as a script sees it."""

    def __init__(self, peer: socket.socket, engine: RawEngine) -> None:
        self._peer = peer
        self._engine = engine
        self._rest = b""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
        self.request = Received("", "", [])

    def next_request(self) -> bool:
        """Read the head of the next request; return False if there is none."""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
        if self._rest:
            self._http.receive_data(self._rest)
        try:
            event = self._event()
        except Left:
            return False
        if not isinstance(event, h11.Request):
            return False
        self.request = Received(
            event.method.decode(),
            event.target.decode(),
            [(name.decode(), value.decode("latin-1")) for name, value in event.headers],
        )
        self._engine.received.append(self.request)
        return True

    def read_body(self) -> None:
        """Read the rest of the request."""
        digest = hashlib.sha256()
        request = self.request
        while not isinstance(event := self._event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data)
            piece = bytes(event.data)
            digest.update(piece)
            request.length += len(piece)
            if request.length <= _KEPT:
                request.body += piece
                request.pieces.append((monotonic(), piece))
        request.digest = digest.hexdigest()
        request.complete = True
        self._rest = self._http.trailing_data[0]

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        try:
            self._peer.sendall(data)
        except OSError as error:
            self.request.gone_at = monotonic()
            raise Left from error

    def pause(self, seconds: float) -> None:
        """Wait; ends early, with Left, when the other side closes."""
        poll = select.poll()
        poll.register(self._peer, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        if poll.poll(seconds * 1000):
            self.request.gone_at = monotonic()
            raise Left

    def speaks_within(self, seconds: float) -> bool:
        """Return whether the next request begins in that time."""
        poll = select.poll()
        poll.register(self._peer, select.POLLIN)
        return bool(self._rest or poll.poll(seconds * 1000))

    def close(self) -> None:
        """End the connection at once."""
        raise Left

    def take(self, size: int) -> bytes:
        """Return that many bytes as they came, of an upgraded connection."""
        while len(self._rest) < size:
            self._rest += self._receive()
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def upgrade(self) -> None:
        """Take what follows the head for another protocol's bytes."""
        self._rest = self._http.trailing_data[0]

    def _event(self) -> object:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(self._receive())
        except h11.RemoteProtocolError as error:
            self._engine.faults.append(str(error))
            raise Left from error
        return event

    def _receive(self) -> bytes:
        try:
            data = self._peer.recv(256 * 1024)
        except OSError:
            data = b""
        if not data:
            self.request.gone_at = monotonic()
            raise Left
        self._engine.raw += data[:_KEPT]
        return data


Script = Callable[[Talk], None]


class RawEngine:
    """Listens on a port of its own until it is closed."""

    def __init__(self) -> None:
        self.raw = bytearray()  # all bytes that came, over all connections
        self.received: list[Received] = []
        self.faults: list[str] = []  # what came and was no request
        self.connections = 0
        self.script: Script = answering(OK)
        self._peers: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)

    def forget(self) -> None:
        """Begin anew with what came; connections stay."""
        self.raw.clear()
        self.received.clear()
        self.faults.clear()
        self.connections = 0

    def close(self) -> None:
        """End all connections and all threads."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for peer in self._peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        self._listener.close()

    def _run(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            peer.settimeout(_PATIENCE_S)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._peers.append(peer)
            self._run(self._talk, peer)

    def _talk(self, peer: socket.socket) -> None:
        with peer, suppress(Left):
            talk = Talk(peer, self)
            while talk.next_request():
                self.script(talk)


def answering(data: bytes, *, then_close: bool = False) -> Script:
    """Return a script that reads the whole request and sends `data`."""

    def script(talk: Talk) -> None:
        talk.read_body()
        talk.send(data)
        if then_close:
            talk.close()

    return script


def echo(talk: Talk) -> None:
    """Tell the target, and the body's length and hash, as JSON."""
    talk.read_body()
    got = talk.request
    told = {"target": got.target, "length": got.length, "digest": got.digest}
    talk.send(json_answer(told))


def json_answer(value: object) -> bytes:
    """Return a whole answer with `value` as its body."""
    body = json.dumps(value).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def early(data: bytes) -> Script:
    """Return a script that sends `data` without reading the request's body."""

    def script(talk: Talk) -> None:
        talk.send(data)
        talk.pause(_PATIENCE_S)

    return script


def streaming(
    pieces: list[bytes], gap_s: float, *, first_s: float = 0.0, end: bool = True
) -> Script:
    """Return a script that sends each of `pieces` as a chunk, `gap_s` apart."""

    def script(talk: Talk) -> None:
        talk.read_body()
        talk.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for number, piece in enumerate(pieces):
            talk.pause(gap_s if number else first_s)
            talk.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        if not end:
            talk.close()
        talk.send(b"0\r\n\r\n")

    return script


def silent(talk: Talk) -> None:
    """Read the request and say nothing until the other side leaves."""
    talk.read_body()
    talk.pause(_PATIENCE_S)
