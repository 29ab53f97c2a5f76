"""gunicorn's threaded worker, with the errors it answers itself in the one JSON shape."""

from __future__ import annotations

import re
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus

from gunicorn.util import http_date
from gunicorn.workers.gthread import TConn, ThreadWorker

from web.access.key_filter import KeyFilter
from web.http.errors import error_body
from web.http.request_id import HEADER, request_id
from web.serving.booting import hear_signals

_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3})")


class JsonErrorWorker(ThreadWorker):  # type: ignore[misc]
    """Answers requests that never reach Flask (malformed, too large) as Flask's errors look."""

    def init_process(self) -> None:
        """Begin, with logs of gunicorn's that hold no keys."""
        for log in (self.log.error_log, self.log.access_log):
            log.addFilter(KeyFilter())
        super().init_process()

    def init_signals(self) -> None:
        """Take signals, from now on."""
        super().init_signals()
        hear_signals()

    def handle_exit(self, sig: int, frame: object) -> None:
        """Begin to end; whoever follows something is told, and goes on at another process."""
        super().handle_exit(sig, frame)
        application = getattr(self, "wsgi", None)  # not there yet while it boots
        if parts := getattr(application, "extensions", {}).get("relay"):
            parts.followers.close()

    def finish_request(self, conn: TConn, fs: Future[object]) -> None:
        """Close what has ended in a thread: a caller that stays makes it last two seconds."""
        if fs.cancelled() or fs.exception() or fs.result() is not False:
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1
            self.tpool.submit(conn.close, graceful=True)

    def handle_error(self, req: object, client: object, addr: object, exc: Exception) -> None:
        """Let gunicorn judge and log; send its verdict in our words."""
        if getattr(getattr(req, "body", None), "failed", False):
            # The request was answered without its body, which then turned out to be malformed:
            # a second answer would be taken for the one to the next request.
            self.log.warning("malformed body of a request that was answered: %s", exc)
            return
        written = _Recorder(client)
        super().handle_error(req, written, addr, exc)
        found = _STATUS_LINE.match(written.data)
        status = HTTPStatus(int(found.group(1))) if found else HTTPStatus.BAD_REQUEST
        message = str(exc) if status < HTTPStatus.INTERNAL_SERVER_ERROR else status.phrase
        body = error_body(status, f"request: {message}", code=status.name.lower())
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{HEADER}: {request_id(None).decode()}\r\nDate: {http_date()}\r\n\r\n"
        )
        with suppress(OSError):  # the caller may have gone
            client.sendall(head.encode() + body)  # type: ignore[attr-defined]


class _Recorder:
    """Stands for the caller's socket while gunicorn writes its HTML to it."""

    def __init__(self, client: object) -> None:
        self._client = client
        self.data = b""

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def sendall(self, data: bytes) -> None:
        """Keep what was meant for the caller."""
        self.data += data

    send = sendall

    def setblocking(self, flag: object) -> None:
        """Leave the real socket as it is."""
