"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.

No piece of data has a line end in it: JSON and log lines.
"""

from __future__ import annotations

CONTENT_TYPE = "text/event-stream; charset=utf-8"
OPENING = b"retry: 2000\n\n"
"""How long a client is to wait before it comes again, in milliseconds; has the answer begin."""

SIGN_OF_LIFE = b": still here\n\n"
"""A comment, which clients skip."""


def message(data: str, *, event_id: str = "", kind: str = "") -> bytes:
    """Return one message.

    Args:
        data: one line.
        event_id: where a client that comes again goes on behind.
        kind: '' for the ordinary one.
    """
    lines = [f"id: {event_id}"] * bool(event_id) + [f"event: {kind}"] * bool(kind)
    return "".join(f"{line}\n" for line in [*lines, f"data: {data}", ""]).encode()


def end(why: str) -> bytes:
    """Return the last message: an EventSource that sees it should not come again by itself."""
    return message(why, kind="end")
