"""The same tests for every way to an engine.

`view` is the Flask view under gunicorn's threads; `relay` is the worker class that the web tier is
configured with, where that is another one.
"""

from __future__ import annotations

import json
import runpy
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import h11

from shared.domain.instance import Instance, Status
from shared.domain.node import HEARTBEAT_S
from shared.errors import StoreUnavailable
from shared.settings import ROOT
from shared.store import Change
from shared.store.redis import RedisStore, connect
from tests.builders import a_node, an_instance
from tests.integration.harness import LocalFleet, local_fleet
from tests.integration.raw_engine import RawEngine

DEADLINE_S = 10.0  # in which any answer must have come
MAX_BODY = 16 * 2**20
ENGINE_KEY = "the-engines-own-key"
VIEW = "web.serving.gunicorn_worker.JsonErrorWorker"

SHORT = {
    "PROXY_FIRST_BYTE_TIMEOUT": "2",
    "PROXY_IDLE_TIMEOUT": "2",
    "PROXY_BODY_TIMEOUT": "1",
    "PROXY_HEADER_TIMEOUT": "2",
    "PROXY_CONNECT_TIMEOUT": "1",
    "PROXY_MAX_BODY": str(MAX_BODY),
    "PROXY_ALLOW_PATHS": "/v1/*",  # so that odd paths are refused for being odd
}


def ways() -> dict[str, str]:
    """Return the worker classes to test, by name."""
    configured = runpy.run_path(str(ROOT / "configs/gunicorn.conf.py"))["worker_class"]
    found = {"view": VIEW}
    return found if configured == VIEW else {**found, "relay": configured}


@dataclass(slots=True)
class Answer:
    """One answer, as a strict client reads it."""

    status: int
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes = b""
    pieces: list[tuple[float, bytes]] = field(default_factory=list)  # with monotonic times
    whole: bool = False  # whether it came to its end

    def header(self, name: str) -> str | None:
        """Return the one value of a header; None if it is not there."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def error(self) -> dict[str, Any]:
        """The error object; fails if the answer has another shape."""
        assert self.header("content-type") == "application/json", self
        error = json.loads(self.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}, error
        assert isinstance(error, dict)
        return error


class Caller:
    """A connection to the web tier that sends any bytes and reads strictly."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are; one that is refused early may not take them all."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self, method: str = "GET", *, head_only: bool = False) -> Answer:
        """Read one answer to a request of that method; `whole` says whether it ended."""
        http = self._reader(method)
        answer: Answer | None = None
        while True:
            event = self._event(http)
            if isinstance(event, h11.InformationalResponse):
                continue
            if isinstance(event, h11.Response):
                headers = [(n.decode(), v.decode("latin-1")) for n, v in event.headers]
                answer = Answer(event.status_code, headers)
                if head_only:
                    return answer
                continue
            assert answer is not None, "the connection ended without an answer"
            if isinstance(event, h11.Data):
                answer.body += event.data
                answer.pieces.append((monotonic(), bytes(event.data)))
                continue
            answer.whole = isinstance(event, h11.EndOfMessage)
            self._rest = http.trailing_data[0]
            return answer

    def unread(self) -> bytes:
        """Return what was read and belongs to no answer."""
        data, self._rest = self._rest, b""
        return data

    def read_to(self, end: bytes) -> bytes:
        """Return all bytes up to `end` and it; fails after the deadline."""
        while (at := self._rest.find(end)) < 0:
            data = self.socket.recv(65536)
            assert data, self._rest
            self._rest += data
        found, self._rest = self._rest[: at + len(end)], self._rest[at + len(end) :]
        return found

    def until_closed(self) -> bytes:
        """Return all that comes until the other side closes; fails after the deadline."""
        data = self.unread()
        try:
            while piece := self.socket.recv(65536):
                data += piece
        except ConnectionResetError:
            pass
        return data

    def is_closed(self) -> bool:
        """Return whether the other side closes, with nothing more to say, before the deadline."""
        return self.until_closed() == b""

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def _reader(self, method: str) -> h11.Connection:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
        # Only so that h11 knows what the answer belongs to; these bytes go nowhere.
        http.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        http.send(h11.EndOfMessage())
        if self._rest:
            http.receive_data(self._rest)
        return http

    def _event(self, http: h11.Connection) -> object:
        while (event := http.next_event()) is h11.NEED_DATA:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                try:
                    http.receive_data(b"")
                    return http.next_event()
                except h11.RemoteProtocolError:
                    return None  # cut, or no answer at all
            http.receive_data(data)
        return event


_numbers = count()


class Way:
    """The web tier of one kind, with a store to record instances in."""

    def __init__(self, name: str, fleet: LocalFleet) -> None:
        self.name = name
        self.fleet = fleet
        self.store = RedisStore(connect(fleet.redis_url))
        self._epoch = self.store.announce(a_node(), "conformance")
        parts = urlsplit(fleet.base)
        self.address = ("127.0.0.1", parts.port or 0)

    def record(self, port: int, spec: Mapping[str, object] | None = None, **fields: object) -> str:
        """Record a running instance whose engine is at `port`; return its id."""
        instance_id = f"tiny-{next(_numbers):08d}"
        made = an_instance(instance_id=instance_id, timeout=0, **(spec or {}))
        assert self.store.create(made, 10_000)
        told: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "engine_key": ENGINE_KEY,
            **fields,
        }
        for status in (Status.STARTING, Status.RUNNING):
            self.become(instance_id, status, **told)
        return instance_id

    def beat(self, over: Event) -> None:
        """Have the worker say that its node lives, until it is over."""
        while not over.wait(HEARTBEAT_S):
            with suppress(StoreUnavailable):  # some tests freeze Redis
                self.store.heartbeat("one", self._epoch)

    def end(self, instance_id: str) -> None:
        """Have the instance stopped, and verified gone."""
        self.store.stop(instance_id, reason="the test is over", by="user")
        for status in (Status.STOPPING, Status.STOPPED):
            self.become(instance_id, status, generation=2)

    def become(
        self, instance_id: str, status: Status, *, generation: int = 1, **fields: object
    ) -> None:
        """Have the worker write a status."""
        change = Change(
            instance_id=instance_id,
            node="one",
            epoch=self._epoch,
            generation=generation,
            status=status,
            fields=fields,
        )
        assert self.store.apply(change)

    def flush(self) -> None:
        """Have Redis lose everything."""
        with connect(self.fleet.redis_url) as client:
            client.flushall()


class Case:
    """One instance with its engine behind one way, and callers."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.engine = RawEngine()
        self.renew()
        self.callers: list[Caller] = []
        while self.ask().status == 503:  # the web tier has yet to hear that it runs
            Event().wait(0.01)
        self.leave()
        self.engine.forget()

    def renew(self) -> None:
        """Have the engine be that of another instance, of which nobody has asked anything yet."""
        self.instance_id = self.way.record(self.engine.port)
        self.path = f"/proxy/{self.instance_id}/v1/completions"

    def caller(self) -> Caller:
        """Return a new connection to the web tier."""
        self.callers.append(Caller(self.way.address))
        return self.callers[-1]

    def head(self, method: str = "GET", path: str = "", *lines: str, version: str = "1.1") -> bytes:
        """Return a request's head: to this instance unless `path` begins with a slash."""
        target = path if path.startswith("/") else f"{self.path}{path}"
        text = [f"{method} {target} HTTP/{version}", "Host: localhost", *lines, "", ""]
        return "\r\n".join(text).encode("latin-1")

    def ask(
        self,
        method: str = "GET",
        path: str = "",
        *lines: str,
        body: bytes = b"",
        version: str = "1.1",
    ) -> Answer:
        """Send one request over a connection of its own and return the answer."""
        caller = self.caller()
        if body:
            lines = (*lines, f"Content-Length: {len(body)}")
        caller.send(self.head(method, path, *lines, version=version) + body)
        return caller.answer(method)

    def last(self) -> Any:
        """Return the last request that the engine got."""
        return self.engine.received[-1]

    def in_use(self) -> float | None:
        """Return when the instance was last reported to be in use."""
        record: Instance | None = self.way.store.get(self.instance_id)
        assert record is not None
        return record.last_active

    def leave(self) -> None:
        """End all callers."""
        for caller in self.callers:
            caller.close()
        self.callers.clear()

    def close(self) -> None:
        """End engine and callers."""
        self.leave()
        self.engine.close()


@contextmanager
def running_way(name: str, folder: Path, **env: str) -> Iterator[Way]:
    """Run Redis and one web process of that way; end them."""
    with local_fleet(folder) as fleet:
        fleet.start_web(worker_class=ways()[name], **{**SHORT, **env})
        way, over = Way(name, fleet), Event()
        beating = Thread(target=way.beat, args=(over,))
        beating.start()
        try:
            yield way
        finally:
            over.set()
            beating.join()


def normal(headers: list[tuple[str, str]]) -> dict[str, str]:
    """Return headers as one reading: names in lower case, values of a name joined."""
    joined: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        joined[key] = f"{joined[key]},{value}" if key in joined else value
    return joined
