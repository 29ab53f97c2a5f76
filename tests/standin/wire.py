"""One client's socket: HTTP/1.1 requests in, bytes out, and notice of the client's departure."""

import select
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

from .replies import Reply

_BLOCK: Final = 65_536
_LONGEST_HEAD: Final = 1_048_576  # uvicorn's parser has no limit; only a runaway client gets here
_LONGEST_LINE: Final = 8_192  # of a chunk's size or a trailer
_NO_BODY: Final = frozenset({204, 304})


class ClientGoneError(Exception):
    """The client closed its socket, or its sending half, before the answer was complete."""


class BadRequestError(Exception):
    """What the client sent is not HTTP/1.1; the connection cannot be used any further."""


class Request(NamedTuple):
    """The head of one request, as received."""

    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]  # in order, names not folded

    def header(self, name: str) -> str:
        """Return the values of `name`, given in lower case, joined by commas; "" if absent."""
        return ",".join(value for key, value in self.headers if key.lower() == name)

    @property
    def keeps_alive(self) -> bool:
        """Whether the client may send another request after this one."""
        return self.version == "HTTP/1.1" and "close" not in self.header("connection").lower()


class Connection:
    """One client; used by one thread."""

    def __init__(self, client: socket.socket) -> None:
        self._socket = client
        self._received = b""
        self._departure = select.poll()
        # Not only at the next write: vLLM hears of a closed client at once and aborts.
        self._departure.register(client, select.POLLRDHUP)

    def read_request(self, idle_s: float | None) -> Request | None:
        """Return the next request; None if none comes within `idle_s` or the client is done.

        Raises:
            BadRequestError: the bytes are not the head of a request.
            ClientGoneError: the client left within the head.
        """
        if not self._received and not self._is_readable(idle_s):
            return None
        try:
            self._received = self._received or self._receive()
        except ClientGoneError:
            return None
        return _parsed(self.read_to(b"\r\n\r\n", _LONGEST_HEAD))

    def read_to(self, end: bytes, longest: int) -> bytes:
        """Return the bytes before `end` and drop `end` itself."""
        while (at := self._received.find(end)) < 0:
            if len(self._received) > longest:
                raise BadRequestError(f"no {end!r} within {longest} bytes")
            self._received += self._receive()
        found, self._received = self._received[:at], self._received[at + len(end) :]
        return found

    def read_some(self, most: int) -> bytes:
        """Return at least one byte and at most `most`, of what is there."""
        block = self._received or self._receive()
        self._received = block[most:]
        return block[:most]

    def write(self, data: bytes) -> None:
        """Send all of `data`, blocking while the client does not read.

        Raises:
            ClientGoneError: it left before or during the sending.
        """
        self.wait(0)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ClientGoneError from error

    def wait(self, seconds: float | None) -> None:
        """Wait `seconds`, or for ever with None.

        Raises:
            ClientGoneError: as soon as the client leaves.
        """
        if self._departure.poll(None if seconds is None else max(0.0, seconds) * 1000):
            raise ClientGoneError

    def close_gently(self, linger_s: float) -> None:
        """Say that no more comes, and give the client `linger_s` to read what was sent.

        Closing with bytes unread makes the kernel reset the connection, and a reset can overtake
        the answer on its way to the client.
        """
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self.wait(linger_s)
        except (OSError, ClientGoneError):
            return

    def _receive(self) -> bytes:
        try:
            block = self._socket.recv(_BLOCK)
        except OSError as error:
            raise ClientGoneError from error
        if not block:
            raise ClientGoneError
        return block

    def _is_readable(self, seconds: float | None) -> bool:
        """Return whether bytes, or the client's end, arrive within `seconds`."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))


class Body:
    """The body of one request, read from the socket only as it is asked for."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._awaits_go_ahead = request.header("expect").lower() == "100-continue"
        self._blocks = self._read(request)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        return next(self._blocks)

    def skip(self) -> bool:
        """Read and drop the rest; return False where the client still waits to be asked for it."""
        if self._awaits_go_ahead:
            return False
        for _ in self:
            pass
        return True

    def _read(self, request: Request) -> Iterator[bytes]:
        if self._awaits_go_ahead:
            self._awaits_go_ahead = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in request.header("transfer-encoding").lower():
            yield from self._read_chunks()
        else:
            yield from self._read_exactly(_number(request.header("content-length") or "0", 10))

    def _read_chunks(self) -> Iterator[bytes]:
        while size := _number(self._line().partition(";")[0], 16):
            yield from self._read_exactly(size)
            self._line()
        while self._line():
            pass  # trailers

    def _read_exactly(self, left: int) -> Iterator[bytes]:
        while left:
            block = self._connection.read_some(left)
            left -= len(block)
            yield block

    def _line(self) -> str:
        return self._connection.read_to(b"\r\n", _LONGEST_LINE).decode("latin-1")


def send(connection: Connection, request: Request, reply: Reply, *, close: bool) -> None:
    """Send `reply` as the answer to `request`; a stream goes out as it is made.

    Raises:
        ClientGoneError: the client left before the end.
    """
    headers = [*reply.headers]
    chunked = False
    if reply.length is not None and reply.status not in _NO_BODY:
        headers.append(("content-length", str(reply.length)))
    elif reply.length is None and request.version == "HTTP/1.1":
        headers.append(("transfer-encoding", "chunked"))
        chunked = True
    if close:
        headers.append(("connection", "close"))
    lines = [f"HTTP/1.1 {reply.status} {reply.reason}"]
    lines += [f"{name}: {value}" for name, value in headers]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    if request.method == "HEAD" or reply.status in _NO_BODY:
        connection.write(head)
    elif isinstance(reply.body, bytes):
        connection.write(head + reply.body)
    else:
        connection.write(head)
        _send_stream(connection, reply.body, chunked=chunked)


def _send_stream(connection: Connection, blocks: Iterator[bytes], *, chunked: bool) -> None:
    for block in blocks:
        connection.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
    if chunked:
        connection.write(b"0\r\n\r\n")


def _parsed(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != len(("method", "target", "version")) or not words[2].startswith("HTTP/1."):
        raise BadRequestError(f"not a request line: {first!r}")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequestError(f"not a header: {line!r}")
        headers.append((name, value.strip(" \t")))
    return Request(words[0], words[1], words[2], tuple(headers))


def _number(text: str, base: int) -> int:
    try:
        number = int(text, base)
    except ValueError as error:
        raise BadRequestError(f"not a length: {text!r}") from error
    if number < 0:
        raise BadRequestError(f"negative length: {text!r}")
    return number
