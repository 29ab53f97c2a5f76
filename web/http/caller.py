"""The connection of the one who asks, watched for its end while an answer is awaited.

WSGI notices a departed caller only at the next write, which during a long prefill is never: the
servers we know hand over the socket, and elsewhere the next write has to do.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping

GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL
"""Poll events that say the peer has closed or broken the connection; not that it sent more."""

_ENVIRON_KEYS = ("gunicorn.socket", "werkzeug.socket")


def caller_socket(environ: Mapping[str, object]) -> socket.socket | None:
    """Return the caller's connection, where the WSGI server gives it."""
    for key in _ENVIRON_KEYS:
        found = environ.get(key)
        if isinstance(found, socket.socket):
            return found
    return None


def is_gone(caller: socket.socket | None) -> bool:
    """Return whether the caller has closed its connection; False where nobody can tell."""
    if caller is None:
        return False
    poll = select.poll()
    poll.register(caller, GONE)
    return bool(poll.poll(0))
