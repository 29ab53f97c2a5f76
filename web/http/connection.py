"""Whether the caller's connection may carry another request.

An application under WSGI may not say `Connection: close` (PEP 3333), and gunicorn drops it if it
does. Yet a request whose body was not read to its end leaves bytes behind that are no request.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_CLOSE = "fleet.close_connection"


def close_after(environ: WSGIEnvironment) -> None:
    """Have the connection closed after the answer to this request, and the answer say so."""
    environ[_CLOSE] = True


class ClosingConnections:
    """WSGI middleware: does what `close_after` asked of gunicorn.

    Other servers get no word: Werkzeug's closes after every answer.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""

        def start(
            status: str,
            headers: list[tuple[str, str]],
            exc_info: tuple[type[BaseException], BaseException, TracebackType]
            | tuple[None, None, None]
            | None = None,
        ) -> object:
            # gunicorn's start_response is a method of its gunicorn.http.wsgi.Response.
            force_close = getattr(getattr(start_response, "__self__", None), "force_close", None)
            if environ.get(_CLOSE) and force_close is not None:
                force_close()
            return start_response(status, headers, exc_info)

        return self._app(environ, start)  # type: ignore[arg-type]
