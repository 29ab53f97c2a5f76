"""The benchmark gives no number for a run in which an answer failed, was cut off or altered."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shared.settings import ROOT
from tests.bench.build import build
from tests.bench.measure import Bench, Live
from tests.bench.processes import Program
from tests.bench.results import Measurement
from tests.bench.scenarios import CHAT, EMBEDDINGS, Scenario
from tests.bench.targets import BY_NAME, Plan
from tests.demo.waiting import until
from tests.integration.harness import processes_of
from tests.ports import ports

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the benchmark needs gcc")

KEY = "the-engines-key"
_CPU = min(os.sched_getaffinity(0))
_PIECE = 65536

Spoil = Callable[[bytes], bytes | None]  # what goes on instead; None: the connection is closed


def intact(data: bytes) -> bytes:
    return data


def cut_off(data: bytes) -> None:
    del data


def without_its_end(data: bytes) -> bytes | None:
    return data[:-1] if len(data) > 1 else None


def doubled(data: bytes) -> bytes:
    return data + data


def with_other(old: bytes, new: bytes) -> Spoil:
    return lambda data: data.replace(old, new)


class Proxy:
    """Passes bytes between callers and the engine; spoils some."""

    def __init__(self, engine_port: int, request: Spoil, answer: Spoil) -> None:
        self._engine_port = engine_port
        self._request, self._answer = request, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept nobody any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller = self._listener.accept()[0]
                engine = socket.create_connection(("127.0.0.1", self._engine_port))
                for ways in ((caller, engine, self._request), (engine, caller, self._answer)):
                    threading.Thread(target=_pass_on, args=ways, daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, spoil: Spoil) -> None:
    with suppress(OSError), source, sink:
        while data := source.recv(_PIECE):
            spoilt = spoil(data)
            if spoilt is None:
                break
            sink.sendall(spoilt)
        for end in (source, sink):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    programs = build(folder)
    port = ports()
    words = [str(programs.engine), "--port", str(port), "--key", KEY]
    engine = Program("engine", words, cpus=[_CPU], folder=folder)
    try:
        engine.await_ready(lambda: _listens(port))
        yield Bench(programs.loadgen, _CPU, port)
    finally:
        engine.end()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def measured(
    bench: Bench, mode: str, *, request: Spoil = intact, answer: Spoil = intact, key: str = KEY
) -> Measurement:
    """Return what the benchmark says of a proxy that spoils what it passes on."""
    load = {"mode": mode, "connections": 2, "seconds": 0.3, "warmup": 0, "tokens": 4}
    scenario = Scenario(
        name="short",
        says="",
        load=load,
        engine={"tokens": 4, "gap_us": 1000},
        path=EMBEDDINGS if mode == "upload" else CHAT,
    )
    proxy = Proxy(bench.engine_port, request, answer)
    try:
        live = Live(target=BY_NAME["nginx"], plan=Plan(bearer=key), port=proxy.port, program=None)
        return bench.measure(live, scenario, 0)
    finally:
        proxy.close()


@pytest.mark.parametrize("mode", ["json", "sse", "upload", "download"])
def test_a_proxy_that_changes_nothing_gets_its_numbers(bench: Bench, mode: str) -> None:
    found = measured(bench, mode)
    assert found.refused == ""
    assert found.figures["answers_per_s"] > 0


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        ("json", cut_off),
        ("json", without_its_end),
        ("json", doubled),
        ("json", with_other(b"200 OK", b"502 Bad Gateway")),
        ("json", with_other(b"ABC", b"ABD")),
        ("json", with_other(b'"id":"chatcmpl-', b'"id":"chatcmpl-0')),
        ("sse", cut_off),
        ("sse", without_its_end),
        ("sse", with_other(b'"index":0', b'"index":1')),
        ("sse", with_other(b";000002;", b";000003;")),
        ("sse", with_other(b"data: [DONE]\n\n", b"data: [DENO]\n\n")),
        ("sse", with_other(b"\r\n0\r\n\r\n", b"\r\n0\r\nx: y\r\n\r\n")),
        ("upload", with_other(b'"embedding":[1', b'"embedding":[2')),
        ("download", with_other(b"XYZ", b"XYY")),
        ("download", without_its_end),
    ],
)
def test_a_spoilt_answer_gives_no_number(bench: Bench, mode: str, answer: Spoil) -> None:
    found = measured(bench, mode, answer=answer)
    assert found.refused
    assert not found.figures


@pytest.mark.parametrize(
    ("mode", "request_"),
    [("json", with_other(b"fox", b"dog")), ("upload", with_other(b"xyz", b"xyy"))],
)
def test_a_spoilt_request_gives_no_number(bench: Bench, mode: str, request_: Spoil) -> None:
    assert measured(bench, mode, request=request_).refused


def test_a_proxy_that_loses_the_engines_key_gets_no_number(bench: Bench) -> None:
    assert "status 401" in measured(bench, "json", key="another").refused


def test_an_interrupted_benchmark_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    words = ["--targets", "direct", "--scenarios", "json16", "--rounds", "20"]
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.bench", *words],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    # What it runs works in its temporary folder.
    assert until(lambda: len(processes_of(tmp_path)) > 1, 20.0)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=20)[1]
    assert (run.returncode, "interrupted" in said) == (130, True)
    assert (processes_of(tmp_path), list(tmp_path.glob("bench-*"))) == ([], [])
