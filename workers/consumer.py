"""Celery's consumer, which comes back soon after Redis does, however long that was away."""

from __future__ import annotations

from functools import partial

from celery.worker import consumer
from kombu import Connection

_FIRST_S, _LONGER_BY_S, _LONGEST_S = 1, 1, 4


class Consumer(consumer.Consumer):
    """Tries to connect every four seconds at least.

    Celery 5.7 leaves the pauses to kombu, whose grow by two seconds each, up to thirty: after an
    outage of a minute nobody would hear a doorbell for twelve seconds more (measured).
    """

    def ensure_connected(self, conn: Connection) -> Connection:
        """Return `conn` once it is connected."""
        conn.ensure_connection = partial(  # type: ignore[method-assign]
            conn.ensure_connection,
            interval_start=_FIRST_S,
            interval_step=_LONGER_BY_S,
            interval_max=_LONGEST_S,
        )
        return super().ensure_connected(conn)
