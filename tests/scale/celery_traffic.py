"""What a Celery worker asks of Redis, for a thousand workers at once, in one event loop.

As recorded with MONITOR from our own idle workers (Celery 5.7.0, kombu 5.7.0): a BRPOP of one
second on the node's queue and that of the sweeps, in four priorities each; an event every two
seconds; a look for messages that were not acknowledged every five. A message is taken and
acknowledged, its result stored and its events sent as Celery does. Each worker has two connections
here, one that waits and one that talks; a real one has a few more, which are silent.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

_QUEUES = "fleet:celery:"
_PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
_EVENT_S = 2.0
_RESTORE_S = 5.0
_AT_ONCE = 50  # connections that are made at a time
_BODY = "x" * 300


class Workers:
    """Waits for messages to all nodes, in a thread of its own."""

    def __init__(self, socket: str, names: list[str], rung: Callable[[str], None]) -> None:
        """Have `rung` called, in that thread, with each node that gets a message."""
        self._socket = socket
        self._names = names
        self._rung = rung
        self._loop = asyncio.new_event_loop()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Connect all of them."""
        self._thread.start()
        assert self._connected.wait(60), "Redis does not take so many connections"

    def stop(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._connect())
        self._connected.set()
        self._loop.run_forever()

    async def _connect(self) -> None:
        for begin in range(0, len(self._names), _AT_ONCE):
            await asyncio.gather(*map(self._worker, self._names[begin : begin + _AT_ONCE]))

    async def _worker(self, name: str) -> None:
        connect = self._loop.create_unix_connection
        _, talking = await connect(_Talking, self._socket)
        await connect(lambda: _Waiting(name, talking, self._rung), self._socket)
        # Spread over the interval, as workers that were started one after the other are.
        share = hash(name) % 1000 / 1000
        self._loop.call_later(share * _EVENT_S, self._event, talking, name)
        self._loop.call_later(share * _RESTORE_S, self._restore, talking)

    def _event(self, talking: _Talking, name: str) -> None:
        talking.say("PUBLISH", f"{_QUEUES}/0.celeryev/worker.heartbeat", name + _BODY)
        self._loop.call_later(_EVENT_S, self._event, talking, name)

    def _restore(self, talking: _Talking) -> None:
        mutex = f"{_QUEUES}unacked_mutex"
        talking.say("SET", mutex, "token", "NX", "PX", "300000")
        talking.say("ZRANGEBYSCORE", f"{_QUEUES}unacked_index", "0", "1", "LIMIT", "0", "10")
        talking.say("GET", mutex)
        talking.say("DEL", mutex)
        self._loop.call_later(_RESTORE_S, self._restore, talking)


class _Talking(asyncio.Protocol):
    """A connection on which nobody waits for answers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def say(self, *words: str) -> None:
        """Send a command."""
        self.transport.write(_command(*words))

    def take(self, name: str) -> None:
        """Take a message, run its task, say so."""
        tag = f"tag-{name}"
        result = f"{_QUEUES}celery-task-meta-{name}"
        self.say("ZADD", f"{_QUEUES}unacked_index", "1", tag)
        self.say("HSET", f"{_QUEUES}unacked", tag, _BODY)
        for event in ("task.received", "task.started", "task.succeeded"):
            self.say("PUBLISH", f"{_QUEUES}/0.celeryev/{event}", _BODY)
        for _ in ("started", "succeeded"):
            self.say("SETEX", result, "86400", _BODY)
            self.say("PUBLISH", result, _BODY)
        self.say("ZREM", f"{_QUEUES}unacked_index", tag)
        self.say("HDEL", f"{_QUEUES}unacked", tag)


class _Waiting(asyncio.Protocol):
    """A connection on which a worker waits for messages."""

    def __init__(self, name: str, talking: _Talking, rung: Callable[[str], None]) -> None:
        self._name = name
        self._talking = talking
        self._rung = rung
        queues = (f"node.{name}", "sweeps")
        keys = [f"{_QUEUES}{queue}{priority}" for priority in _PRIORITIES for queue in queues]
        self._ask = _command("BRPOP", *keys, "1")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(self._ask)
        self._said = b""

    def data_received(self, data: bytes) -> None:
        self._said += data
        if not _is_whole(self._said):
            return
        if not self._said.startswith(b"*-1"):
            self._talking.take(self._name)
            self._rung(self._name)
        self._said = b""
        self._transport.write(self._ask)


def _command(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    sent = [b"*%d\r\n" % len(parts), *(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)]
    return b"".join(sent)


def _is_whole(said: bytes) -> bool:
    """Return whether an answer to BRPOP is all there: nothing, or a queue's name and a message."""
    if not said.startswith(b"*2\r\n"):
        return said.endswith(b"\r\n")
    begin = len(b"*2\r\n")
    for _ in range(2):
        end = said.find(b"\r\n", begin)
        if end < 0:
            return False
        begin = end + 2 + int(said[begin + 1 : end]) + 2
    return len(said) >= begin
