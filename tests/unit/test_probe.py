"""What an engine's metrics say, and what they cannot."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

import pytest

from shared.domain.health import Answer, Vitals
from workers import probe

METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.2e+01
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 7.0
"""


class Engine(ThreadingHTTPServer):
    """Answers all questions with `text`, and what is sent to a path with its status."""

    text = ""
    statuses: Mapping[str, int] = {}  # 0: it does not answer

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.sent: list[tuple[str, Any]] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        body = self.server.text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.sent.append((self.path, json.loads(self.rfile.read(length))))
        status = self.server.statuses.get(self.path, 404)
        if not status:
            self.server.over.wait(20)
            return
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as engine:
        thread = threading.Thread(target=engine.serve_forever, args=(0.01,))
        thread.start()
        yield engine
        engine.over.set()
        engine.shutdown()
        thread.join()


def test_numbers_of_all_engine_cores_are_added(engine: Engine) -> None:
    engine.text = METRICS
    assert probe.unfinished_requests(engine.url) == 15.0
    assert probe.vitals(engine.url, 5.0) == Vitals(running=3.0, steps=7.0, waiting=12.0)


@pytest.mark.parametrize("value", ["NaN", "1.2.3", "-", "e", "", "2.0 trailing"])
def test_what_is_no_number_says_nothing(engine: Engine, value: str) -> None:
    engine.text = f"vllm:num_requests_running {value}\n"
    assert probe.unfinished_requests(engine.url) is None
    assert probe.vitals(engine.url, 5.0) == Vitals(running=0, steps=None)


def test_an_engine_that_is_gone_says_nothing() -> None:
    gone = Engine()
    gone.server_close()
    assert probe.unfinished_requests(gone.url) is None
    assert probe.vitals(gone.url, 5.0) is None


@pytest.mark.parametrize(
    ("statuses", "asked", "answer"),
    [
        ({"/v1/completions": 200}, 1, Answer.GIVEN),
        ({"/v1/completions": 501, "/v1/embeddings": 200}, 2, Answer.GIVEN),  # a pooling model
        ({"/pooling": 200}, 3, Answer.GIVEN),
        ({"/v1/completions": 0}, 1, Answer.NONE),
        ({"/v1/embeddings": 0}, 2, Answer.NONE),
        ({}, 3, Answer.UNTELLING),  # the API server has answered, and no core
        ({"/v1/completions": 400, "/v1/embeddings": 500}, 3, Answer.UNTELLING),
    ],
)
def test_one_token_tells_only_what_the_core_has_said(
    engine: Engine, statuses: dict[str, int], asked: int, answer: Answer
) -> None:
    engine.statuses = statuses
    assert probe.one_token(engine.url, "key", "m", 0.5 if 0 in statuses.values() else 20) is answer
    assert len(engine.sent) == asked
    assert engine.sent[0] == ("/v1/completions", {"model": "m", "prompt": [0], "max_tokens": 1})


@pytest.mark.parametrize("name", ["is_sleeping", "is_paused"])
@pytest.mark.parametrize(("at_rest", "answer"), [(True, Answer.UNTELLING), (False, Answer.NONE)])
def test_one_that_was_put_to_rest_says_so_and_is_not_hung(
    engine: Engine, name: str, at_rest: bool, answer: Answer
) -> None:
    engine.statuses = {"/v1/completions": 0}
    engine.text = json.dumps({name: at_rest})
    assert probe.one_token(engine.url, "key", "m", 0.5) is answer


def test_an_engine_that_is_gone_tells_nothing_of_its_core() -> None:
    gone = Engine()
    gone.server_close()
    assert probe.one_token(gone.url, "key", "m", 20) is Answer.UNTELLING


def test_an_engine_that_begins_to_answer_while_it_is_asked_is_ready() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(probe.becomes_ready, url, "key", ["m"], 20.0)
        assert not asked.done()
        with Engine(port) as engine:
            engine.text = json.dumps({"data": [{"id": "m"}]})
            serving = threading.Thread(target=engine.serve_forever)
            serving.start()
            try:
                assert asked.result(20)
            finally:
                engine.shutdown()
                serving.join()


def test_one_that_never_answers_is_not_waited_for_longer() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        began = monotonic()
        assert not probe.becomes_ready(url, "key", ["m"], 0.3)
    assert monotonic() - began < 10
