"""The proxy: what arrives at the engine, what comes back, who notices whose end."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, local_fleet

_MIB = 2**20


class Engine:
    """A running stand-in behind the proxy."""

    def __init__(self, fleet: LocalFleet, record: Any) -> None:
        self.fleet = fleet
        self.path = f"/proxy/{record['instance_id']}"
        self.port: int = record["port"]

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        return self.fleet.call(method, f"{self.path}{path}", **kwargs)

    def raw(self, request: str, body: bytes = b"") -> socket.socket:
        """Send a request as it stands over a connection of its own."""
        address = urlsplit(self.fleet.base)
        connection = socket.create_connection(("127.0.0.1", address.port or 0), timeout=20)
        connection.sendall(request.replace("\n", "\r\n").encode() + body)
        return connection

    def seen(self, path: str) -> list[str]:
        """Return how the engine saw requests to `path` end."""
        return [r["outcome"] for r in self.call("GET", "/seen").json() if path in r["target"]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with local_fleet(tmp_path_factory.mktemp("proxy")) as fleet:
        fleet.start_worker("one")
        fleet.start_web(
            PROXY_FIRST_BYTE_TIMEOUT="4",
            PROXY_IDLE_TIMEOUT="4",
            PROXY_MAX_BODY=str(256 * _MIB),
        )
        yield Engine(fleet, fleet.create())


class _Sized:
    """A body that is read in pieces and whose length is known."""

    def __init__(self, pieces: Iterator[bytes], length: int) -> None:
        self._pieces = pieces
        self._length = length

    def __len__(self) -> int:
        return self._length

    def read(self, _size: int = -1) -> bytes:
        return next(self._pieces, b"")


def answer_of(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    received = b""
    with connection:
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "BREW"]
)
def test_any_method_reaches_the_engine(engine: Engine, method: str) -> None:
    assert engine.call(method, "/echo").json()["method"] == method


def test_path_and_query_arrive_as_they_stood(engine: Engine) -> None:
    target = "/echo/a%20b/%C3%A9+c,d=1?x=%2F;&y=a+b&&z"
    assert engine.call("GET", target).json()["target"] == target


def test_the_root_of_an_engine_is_reached_with_and_without_a_slash(engine: Engine) -> None:
    for path in ("", "/"):
        assert engine.call("GET", path).status_code == 404  # the stand-in's own
        assert "x-engine-pid" in engine.call("GET", f"{path}/echo".replace("//", "/")).headers


@pytest.mark.parametrize(
    "path",
    ["/a/../b", "/a/%2e%2e/b", "/a/./b", "//b", "/a//b", "/a%2fb", "/a\\b", "/a%5cb", "/a%00"],
)
def test_a_path_that_could_mean_two_things_is_400(engine: Engine, path: str) -> None:
    head = f"GET {engine.path}{path} HTTP/1.1\nHost: localhost\nConnection: close\n\n"
    answer = answer_of(engine.raw(head))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"error"' in answer


def test_the_callers_secrets_stay_here_and_the_engines_key_goes_there(engine: Engine) -> None:
    sent = {"Authorization": "Bearer mine", "Cookie": "a=b", "X-Custom": "kept", "Keep-Alive": "5"}
    arrived = dict(engine.call("GET", "/echo", headers=sent).json()["headers"])
    assert arrived["X-Custom"] == "kept"
    assert arrived["Authorization"] != "Bearer mine"
    assert arrived["Host"] == f"127.0.0.1:{engine.port}"
    assert not {"Cookie", "Keep-Alive", "Connection"} & arrived.keys()


def test_headers_that_connection_names_are_dropped(engine: Engine) -> None:
    sent = {"Connection": "keep-alive, X-Hop", "X-Hop": "1"}
    arrived = dict(engine.call("GET", "/echo", headers=sent).json()["headers"])
    assert "X-Hop" not in arrived


def test_status_and_headers_come_back_as_the_engine_gave_them(engine: Engine) -> None:
    answer = engine.call("GET", "/echo")
    assert answer.raw.headers.getlist("X-Twice") == ["first", "second"]
    assert answer.raw.headers.getlist("Date") == [answer.headers["Date"]]
    for status in (201, 204, 304, 404, 418, 500, 503):
        assert engine.call("GET", f"/status/{status}").status_code == status


def test_a_redirect_is_passed_on_not_followed(engine: Engine) -> None:
    answer = engine.call("GET", "/redirect", allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (302, "http://169.254.169.254/")


def test_head_has_the_length_and_no_body(engine: Engine) -> None:
    answer = engine.call("HEAD", "/bytes/1000")
    assert (answer.headers["Content-Length"], answer.content) == ("1000", b"")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_arrives_whole_in_constant_memory(engine: Engine, chunked: bool) -> None:
    piece = bytes(range(256)) * 4096  # 1 MiB
    before = web_memory(engine.fleet)

    pieces = (piece for _ in range(128))
    body: Any = pieces if chunked else _Sized(pieces, 128 * _MIB)
    told = engine.call("POST", "/echo", data=body).json()
    assert told["body_length"] == 128 * _MIB
    assert told["body_sha256"] == hashlib.sha256(piece * 128).hexdigest()
    assert web_memory(engine.fleet) - before < 8 * _MIB


@pytest.mark.parametrize("kind", ["bytes", "chunked-bytes"])
def test_a_large_download_comes_whole_in_constant_memory(engine: Engine, kind: str) -> None:
    before = web_memory(engine.fleet)
    size, expected = 0, bytes(i % 251 for i in range(251)) * 4096
    with engine.call("GET", f"/{kind}/{128 * _MIB}", stream=True) as answer:
        for piece in answer.iter_content(_MIB):
            start = size % 251
            assert piece == expected[start : start + len(piece)] or len(piece) > len(expected) - 251
            size += len(piece)
    assert size == 128 * _MIB
    assert web_memory(engine.fleet) - before < 8 * _MIB


def test_sse_comes_chunk_by_chunk_as_produced(engine: Engine) -> None:
    began = monotonic()
    with engine.call("GET", "/sse?count=5&gap=0.3&first=0.3", stream=True) as answer:
        assert answer.headers["X-Accel-Buffering"] == "no"
        times = [monotonic() - began for line in answer.iter_lines(chunk_size=1) if line]
    for n, seconds in enumerate(times[:5]):
        assert abs(seconds - 0.3 * (n + 1)) < 0.25, times


@pytest.mark.parametrize(
    "path",
    ["/silent?seconds=30&silent-get", "/sse?count=100&gap=0.1&flow", "/sse?first=30&prefill"],
)
def test_a_caller_who_leaves_ends_the_engines_request_within_a_second(
    engine: Engine, path: str
) -> None:
    mark = path.rsplit("&", 1)[1]
    head = f"GET {engine.path}{path} HTTP/1.1\nHost: localhost\n\n"
    connection = engine.raw(head)
    until(lambda: False, 0.5)
    connection.close()
    left = monotonic()
    assert until(lambda: engine.seen(mark) == ["aborted"], 3)
    assert monotonic() - left < 1


def test_a_caller_who_leaves_in_its_upload_ends_the_engines_request(engine: Engine) -> None:
    head = f"POST {engine.path}/echo/cut HTTP/1.1\nHost: localhost\nContent-Length: 1000000\n\n"
    connection = engine.raw(head, b"x" * 100_000)  # enough for the engine to hear of it
    until(lambda: False, 0.3)
    connection.close()
    assert until(lambda: engine.seen("/echo/cut") == ["aborted"], 3)


def test_an_engine_that_dies_in_its_answer_leaves_no_whole_answer(engine: Engine) -> None:
    head = f"GET {engine.path}/die-mid-stream HTTP/1.1\nHost: localhost\n\n"
    answer = answer_of(engine.raw(head))
    assert b"200 OK" in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_an_early_refusal_of_an_upload_comes_through(engine: Engine) -> None:
    answer = engine.call("POST", "/early-413", data=b"x" * (4 * _MIB))
    assert answer.status_code == 413


def test_expect_100_continue_is_answered_before_the_body(engine: Engine) -> None:
    head = (
        f"POST {engine.path}/echo HTTP/1.1\nHost: localhost\nContent-Length: 3\n"
        "Expect: 100-continue\nConnection: close\n\n"
    )
    connection = engine.raw(head)
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    connection.sendall(b"abc")
    assert b'"body_length":3' in answer_of(connection).replace(b": ", b":")


def test_http_1_0_gets_an_answer_without_chunks(engine: Engine) -> None:
    answer = answer_of(engine.raw(f"GET {engine.path}/sse?count=2 HTTP/1.0\nHost: localhost\n\n"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body.startswith(b"data:")


def test_pipelined_requests_are_answered_in_order(engine: Engine) -> None:
    one = f"GET {engine.path}/echo/1 HTTP/1.1\nHost: localhost\n\n"
    two = f"GET {engine.path}/echo/2 HTTP/1.1\nHost: localhost\nConnection: close\n\n"
    answer = answer_of(engine.raw(one + two))
    assert answer.index(b"/echo/1") < answer.index(b"/echo/2")


def test_no_answer_in_time_is_504(engine: Engine) -> None:
    answer = engine.call("GET", "/silent?seconds=30&timeout")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_timeout")
    assert until(lambda: engine.seen("timeout") == ["aborted"], 3)


def test_a_stream_that_falls_silent_is_cut_not_ended(engine: Engine) -> None:
    head = f"GET {engine.path}/sse?count=2&gap=30&stall HTTP/1.1\nHost: localhost\n\n"
    answer = answer_of(engine.raw(head))
    assert b"200 OK" in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_an_unknown_instance_is_404(engine: Engine) -> None:
    answer = engine.fleet.call("GET", "/proxy/nobody-x/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_an_ended_instance_is_503_and_says_why(engine: Engine) -> None:
    record = engine.fleet.create()
    engine.fleet.delete(record["instance_id"])
    answer = engine.fleet.call("GET", f"/proxy/{record['instance_id']}/v1/models")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (503, None)
    assert "is stopped: deleted by request" in answer.json()["error"]["message"]


def test_an_unreachable_engine_is_502(engine: Engine) -> None:
    record = engine.fleet.create()
    worker = engine.fleet.processes[0].popen
    worker.send_signal(signal.SIGSTOP)  # nobody writes that it is gone
    try:
        os.kill(record["pid"], signal.SIGKILL)
        path = f"/proxy/{record['instance_id']}/v1/models"
        assert until(lambda: engine.fleet.call("GET", path).status_code == 502, 5)
        assert engine.fleet.call("GET", path).json()["error"]["code"] == "engine_unreachable"
    finally:
        worker.send_signal(signal.SIGCONT)


def test_a_hundred_streams_at_once_are_all_whole(engine: Engine) -> None:
    def stream(_: int) -> int:
        answer = engine.fleet.http.get(
            f"{engine.fleet.base}{engine.path}/sse?count=20&gap=0.05", timeout=60
        )
        return sum(line.startswith("data:") for line in answer.text.splitlines())

    with ThreadPoolExecutor(50) as pool:
        counts = list(pool.map(stream, range(100)))
    assert set(counts) == {counts[0]}
    assert counts[0] >= 20


def web_memory(fleet: LocalFleet) -> int:
    """Return the peak resident memory of the web process, in bytes, since the last call."""
    master = fleet.processes[1].popen.pid
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    process = Path(f"/proc/{children[0]}")
    status = (process / "status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    (process / "clear_refs").write_text("5")  # starts a new peak: proc(5)
    return int(peak.split()[1]) * 1024
