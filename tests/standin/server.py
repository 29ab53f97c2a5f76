"""Listen, and talk to each client in a thread of its own."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote

from .journal import Journal
from .replies import CutError, Reply, bytes_reply
from .wire import BadRequestError, Body, ClientGoneError, Connection, Request, send

_BACKLOG: Final = 2048  # uvicorn's default
# Time for a client to read an answer given before its body was read; then it is cut off.
_LINGER_S: Final = 0.5
# A fleet polls these without end; they would push everything else out of the journal.
_NOT_JOURNALED: Final = frozenset({"/health", "/metrics", "/seen"})


class Exchange(NamedTuple):
    """One request on its connection, as a handler sees it."""

    request: Request
    body: Body
    connection: Connection
    until_answered: ExitStack  # closed when the answer is complete or given up

    @property
    def path(self) -> str:
        """The decoded path, without the query."""
        return unquote(self.request.target.partition("?")[0])

    def query(self, name: str, default: float) -> float:
        """Return the number called `name` in the query.

        Raises:
            BadRequestError: it is not a number.
        """
        values = parse_qs(self.request.target.partition("?")[2]).get(name, [str(default)])
        try:
            return float(values[0])
        except ValueError as error:
            raise BadRequestError(f"{name}={values[0]!r} is not a number") from error

    def wait(self, seconds: float | None) -> None:
        """Wait, for ever with None; raise ClientGoneError as soon as the client leaves."""
        self.connection.wait(seconds)


Handler = Callable[[Exchange], Reply]


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that holds the address and refuses clients until it listens.

    Raises:
        OSError: the address is taken or not ours.
    """
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, port))
    return holder


class Server:
    """Answers every client of one socket with one handler."""

    def __init__(
        self, listener: socket.socket, handler: Handler, journal: Journal, keep_alive_s: float
    ) -> None:
        """Take over the bound `listener`; idle connections are closed after `keep_alive_s`."""
        self._listener = listener
        self._handler = handler
        self._journal = journal
        self._keep_alive_s = keep_alive_s

    def start(self) -> None:
        """Accept clients from now on, in threads; returns at once."""
        self._listener.listen(_BACKLOG)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop_accepting(self) -> None:
        """Refuse new clients; those connected are served on."""
        try:
            # Unlike close, this wakes the thread that is blocked in accept.
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._listener.close()  # it never listened

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        """Answer the requests of one client until either side has enough."""
        connection = Connection(client)
        idle_s: float | None = None  # as uvicorn: the first request may take its time
        with client:
            try:
                while request := connection.read_request(idle_s):
                    if not self._answer(connection, request):
                        return
                    idle_s = self._keep_alive_s
            except ClientGoneError:
                return
            except BadRequestError as error:
                _refuse(connection, error)

    def _answer(self, connection: Connection, request: Request) -> bool:
        """Answer one request and journal it; return whether the connection may be used again."""
        began = time.monotonic()
        outcome = "done"
        with ExitStack() as until_answered:
            exchange = Exchange(request, Body(connection, request), connection, until_answered)
            try:
                reply = self._handler(exchange)
                close = reply.leaves_body_unread or not request.keeps_alive
                send(connection, request, reply, close=close)
            except CutError:
                return False
            except ClientGoneError:
                outcome = "aborted"
                raise
            finally:
                if exchange.path not in _NOT_JOURNALED:
                    seconds = time.monotonic() - began
                    self._journal.finish(request.target, outcome, seconds)
        if reply.leaves_body_unread:
            connection.close_gently(_LINGER_S)
        return not close and exchange.body.skip()


def _refuse(connection: Connection, error: BadRequestError) -> None:
    """Answer what cannot be understood, so that the client need not guess."""
    reply = bytes_reply(400, f"Invalid HTTP request received: {error}".encode(), "text/plain")
    try:
        send(connection, Request("GET", "", "HTTP/1.1", ()), reply, close=True)
    except ClientGoneError:
        return
    connection.close_gently(_LINGER_S)
