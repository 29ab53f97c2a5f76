"""What an engine's metrics say, and what they cannot."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared.domain.health import Vitals
from workers import probe

METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.2e+01
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 7.0
"""


class Engine(ThreadingHTTPServer):
    """Answers all requests with `text`."""

    text = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        body = self.server.text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as engine:
        thread = threading.Thread(target=engine.serve_forever, args=(0.01,))
        thread.start()
        yield engine
        engine.shutdown()
        thread.join()


def test_numbers_of_all_engine_cores_are_added(engine: Engine) -> None:
    engine.text = METRICS
    assert probe.unfinished_requests(engine.url) == 15.0
    assert probe.vitals(engine.url, 5.0) == Vitals(running=3.0, steps=7.0)


@pytest.mark.parametrize("value", ["NaN", "1.2.3", "-", "e", "", "2.0 trailing"])
def test_what_is_no_number_says_nothing(engine: Engine, value: str) -> None:
    engine.text = f"vllm:num_requests_running {value}\n"
    assert probe.unfinished_requests(engine.url) is None
    assert probe.vitals(engine.url, 5.0) == Vitals(running=0, steps=0)


def test_an_engine_that_is_gone_says_nothing() -> None:
    gone = Engine()
    gone.server_close()
    assert probe.unfinished_requests(gone.url) is None
    assert probe.vitals(gone.url, 5.0) is None
