"""`/v1/...` by the name of a model, through both ways: which engine gets it, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.demo.waiting import until
from tests.integration.conformance import Answer, Caller, Way
from tests.integration.raw_engine import (
    RawEngine,
    Received,
    Talk,
    echo,
    json_answer,
    silent,
    streaming,
)

_numbers = count()
CHAT = "/v1/chat/completions"


class Model:
    """A model with replicas, whose engines the test speaks for."""

    def __init__(self, way: Way, replicas: int, **params: object) -> None:
        self.way = way
        self.name = f"org/model-{next(_numbers)}"
        self.params = params
        self.engines = [RawEngine() for _ in range(replicas)]
        self.ids: list[str] = []
        for engine in self.engines:
            self.add(engine.port)
        self.callers: list[Caller] = []
        self.until_known(replicas)

    def add(self, port: int) -> str:
        """Record one more replica, whose engine is at `port`."""
        self.ids.append(self.way.record(port, {"model_name": self.name, "params": self.params}))
        return self.ids[-1]

    def until_known(self, replicas: int, name: str = "") -> None:
        """Wait until the web tier knows so many replicas."""

        def known() -> bool:
            answer = self.ask("GET", f"/v1/models/{(name or self.name).replace('/', '%2F')}")
            found: dict[str, Any] = json.loads(answer.body)
            return found.get("replicas") == replicas

        assert until(known, 20.0)

    def ask(
        self, method: str, path: str, *lines: str, body: bytes = b"", chunked: bool = False
    ) -> Answer:
        """Send one request over a connection of its own and return the answer."""
        caller = self.caller()
        caller.send(head(method, path, *lines, body=body, chunked=chunked))
        return caller.answer(method)

    def post(self, path: str, asked: object, *lines: str) -> Answer:
        """Send JSON."""
        return self.ask(
            "POST", path, "Content-Type: application/json", *lines, body=json.dumps(asked).encode()
        )

    def caller(self) -> Caller:
        """Return a new connection to the web tier."""
        self.callers.append(Caller(self.way.address))
        return self.callers[-1]

    def received(self) -> list[Received]:
        """Return what all engines got."""
        return [got for engine in self.engines for got in engine.received]

    def close(self) -> None:
        """End engines and callers."""
        for caller in self.callers:
            caller.close()
        for engine in self.engines:
            engine.close()
        for instance_id in self.ids:
            self.way.end(instance_id)


def head(method: str, path: str, *lines: str, body: bytes = b"", chunked: bool = False) -> bytes:
    """Return a request, with its body."""
    framing = []
    if chunked:
        framing = ["Transfer-Encoding: chunked"]
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    elif body:
        framing = [f"Content-Length: {len(body)}"]
    text = [f"{method} {path} HTTP/1.1", "Host: localhost", *framing, *lines, "", ""]
    return "\r\n".join(text).encode() + body


@pytest.fixture
def model(way: Way) -> Iterator[Model]:
    made = Model(way, 1)
    yield made
    made.close()


@pytest.fixture
def three(way: Way) -> Iterator[Model]:
    made = Model(way, 3)
    yield made
    made.close()


# where the name stands


def test_the_model_of_a_json_body_gets_it_byte_for_byte(model: Model) -> None:
    body = (
        b'{ "messages": [{"role": "user", "content": "\xc3\xa9\\u00e9"}],\n "model" : "%b"}  '
        % (model.name.encode())
    )
    answer = model.ask("POST", f"{CHAT}?a=b", "Content-Type: application/json", body=body)
    assert (answer.status, answer.body) == (200, b'{"ok":true}')
    got = model.engines[0].received[-1]
    assert (got.method, got.target, got.body) == ("POST", f"{CHAT}?a=b", body)
    assert got.header("authorization") == "Bearer the-engines-own-key"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/messages"])
def test_every_path_of_inference_goes_by_the_model(model: Model, path: str) -> None:
    assert model.post(path, {"model": model.name}).status == 200
    assert model.engines[0].received[-1].target == path


@pytest.mark.parametrize("path", ["/v2/rerank", "/rerank", "/tokenize", "/pooling"])
def test_paths_that_are_not_below_v1_do_too(model: Model, path: str) -> None:
    assert model.post(path, {"model": model.name}).status == 200
    assert model.engines[0].received[-1].target == path


def test_a_chunked_body_is_read_too(model: Model) -> None:
    body = json.dumps({"model": model.name, "prompt": "x" * 100_000}).encode()
    answer = model.ask("POST", CHAT, "Content-Type: application/json", body=body, chunked=True)
    assert answer.status == 200
    assert model.engines[0].received[-1].body == body


@pytest.mark.parametrize("size", [1000, 700_000, 1_200_000, 5_000_000])
def test_bodies_of_any_length_arrive_whole(model: Model, size: int) -> None:
    model.engines[0].script = echo
    body = json.dumps({"prompt": "é" * (size // 2), "model": model.name}, ensure_ascii=False)
    sent = body.encode()
    answer = model.ask("POST", CHAT, "Content-Type: application/json", body=sent)
    assert json.loads(answer.body)["length"] == len(sent)


@pytest.mark.parametrize("model_first", [True, False])
def test_the_model_of_a_form_gets_the_upload(model: Model, *, model_first: bool) -> None:
    parts = [
        b'Content-Disposition: form-data; name="model"\r\n\r\n' + model.name.encode(),
        b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + bytes(range(256)) * 1000,
    ]
    if not model_first:
        parts.reverse()
    body = b"".join(b"--XyZ\r\n%b\r\n" % part for part in parts) + b"--XyZ--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=XyZ"
    assert model.ask("POST", "/v1/audio/transcriptions", kind, body=body).status == 200
    assert model.engines[0].received[-1].body == body


def test_the_model_of_the_query_is_enough(model: Model) -> None:
    quoted = model.name.replace("/", "%2F")
    assert model.ask("POST", f"/v1/completions?model={quoted}").status == 200
    assert model.engines[0].received[-1].target == f"/v1/completions?model={quoted}"


# what cannot be routed


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"model":"NAME","model":"NAME"}', "twice"),
        (b'{"model":"NAME","\\u006dodel":"NAME"}', "twice"),
        (b'{"prompt":"x"}', "model: is missing"),
        (b'{"model":7}', "not a name"),
        (b'{"model":""}', "not a name"),
        (b'{"model":null}', "missing"),
        (b'["model"]', "object"),
        (b'{"model":"NAME"', "JSON"),
        (b'{"model":"NAME"} x', "JSON"),
        (b'\xef\xbb\xbf{"model":"NAME"}', "JSON"),
        (b'{"model":"NAME\xff"}', "UTF-8"),
        ('{"model":"NAME"}'.encode("utf-16"), "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"model":"NAME","a":' + b"1" * 5000 + b"}", "JSON"),
    ],
)
def test_a_body_that_does_not_say_one_model_is_400(model: Model, body: bytes, says: str) -> None:
    sent = body.replace(b"NAME", model.name.encode())
    answer = model.ask("POST", CHAT, "Content-Type: application/json", body=sent)
    assert answer.status == 400, answer
    assert says in answer.error["message"]
    assert not model.received()


def test_no_body_and_no_model_is_400(model: Model) -> None:
    answer = model.ask("POST", CHAT)
    assert (answer.status, answer.error["param"]) == (400, "model")


def test_two_names_that_differ_are_400(model: Model) -> None:
    answer = model.post(f"{CHAT}?model=other", {"model": model.name})
    assert (answer.status, answer.error["param"]) == (400, "model")


def test_an_unknown_model_is_404_and_says_what_there_is(model: Model) -> None:
    answer = model.post(CHAT, {"model": "no/such"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert "'no/such' does not exist" in answer.error["message"]
    assert model.name in answer.error["message"]


def test_a_path_that_is_for_nobody_stays_closed(model: Model) -> None:
    for path in ("/v1/../sleep", "//v1/completions", "/v1//completions", "/v2", "/v1/a%2Fb"):
        answer = model.post(path, {"model": model.name})
        assert answer.status in (400, 403, 404), path
    assert not model.received()


# replicas


def test_replicas_share_what_comes(three: Model) -> None:
    for _ in range(30):
        assert three.post(CHAT, {"model": three.name}).status == 200
    assert [len(engine.received) for engine in three.engines] == [10, 10, 10]


def test_the_least_busy_gets_the_next_one(three: Model) -> None:
    for engine in three.engines:
        engine.script = streaming([b"data: x\n\n"] * 400, 0.05)
    began = []
    for _ in range(9):
        caller = three.caller()
        caller.send(
            head("POST", CHAT, "Content-Type: application/json",
                 body=json.dumps({"model": three.name, "stream": True}).encode())
        )  # fmt: skip
        began.append(caller.answer(head_only=True).status)
    assert began == [200] * 9
    assert [len(engine.received) for engine in three.engines] == [3, 3, 3]


def test_one_that_refuses_is_left_out(three: Model) -> None:
    three.engines[1].close()
    for _ in range(12):
        assert three.post(CHAT, {"model": three.name}).status == 200
    got = [len(engine.received) for engine in three.engines]
    assert sum(got) == 12
    assert min(got[0], got[2]) >= 3, got


def test_where_all_refuse_it_is_503_with_a_time(three: Model) -> None:
    for engine in three.engines:
        engine.close()
    answer = three.post(CHAT, {"model": three.name})
    assert answer.status == 503
    assert "no replica answers" in answer.error["message"]
    assert answer.header("retry-after") == "5"


def test_nothing_is_sent_twice(three: Model) -> None:
    for engine in three.engines:
        engine.script = lambda talk: talk.close()
    assert three.post(CHAT, {"model": three.name}).status == 502
    assert len(three.received()) == 1


def test_what_changes_nothing_is_asked_again_elsewhere(three: Model) -> None:
    quoted = three.name.replace("/", "%2F")
    three.engines[0].script = lambda talk: talk.close()
    for _ in range(3):
        assert three.ask("GET", f"/v1/completions?model={quoted}").status == 200


def test_a_request_of_a_name_that_the_engine_does_not_know_is_renamed(way: Way) -> None:
    model = Model(way, 1)
    way.record(model.engines[0].port, {"model_name": "org/x", "catalogue": f"new-{model.name}"})
    model.until_known(1, f"new-{model.name}")
    body = b'{"a":[{"model":"no"}], "model" :\t"new-%b", "z":"\\u00e9"}' % model.name.encode()
    assert model.ask("POST", CHAT, "Content-Type: application/json", body=body).status == 200
    got = model.engines[0].received[-1].body
    assert got == body.replace(b'"new-%b"' % model.name.encode(), b'"org/x"')
    model.close()


# stored responses


def test_a_response_is_asked_of_its_maker(three: Model) -> None:
    three.engines[0].script = lambda talk: _store(talk, "resp_a1")
    for engine in three.engines[1:]:
        engine.script = lambda talk: _store(talk, "resp_other")
    while not three.engines[0].received:
        assert three.post("/v1/responses", {"model": three.name, "input": "x"}).status == 200
    for engine in three.engines:
        engine.forget()
    for method, path in (
        ("GET", "/v1/responses/resp_a1"),
        ("POST", "/v1/responses/resp_a1/cancel"),
    ):
        assert three.ask(method, path).status == 200
    assert [got.target for got in three.received()] == [
        "/v1/responses/resp_a1",
        "/v1/responses/resp_a1/cancel",
    ]
    assert len(three.engines[0].received) == 2
    for _ in range(4):
        asked = {"model": three.name, "previous_response_id": "resp_a1", "input": "y"}
        assert three.post("/v1/responses", asked).status == 200
    assert len(three.engines[0].received) == 6


def test_a_response_of_another_model_takes_no_request_there(way: Way, model: Model) -> None:
    other = Model(way, 1)
    alias = f"new-{other.name}"  # which its engine does not know, so that it is written anew
    way.record(other.engines[0].port, {"model_name": "org/x", "catalogue": alias})
    other.until_known(1, alias)
    model.engines[0].script = lambda talk: _store(talk, "resp_m1")
    assert model.post("/v1/responses", {"model": model.name, "input": "x"}).status == 200
    for engine in (*model.engines, *other.engines):
        engine.forget()
    asked = {"model": alias, "previous_response_id": "resp_m1", "input": "y"}
    assert model.post("/v1/responses", asked).status == 200
    assert not model.received()
    assert json.loads(other.engines[0].received[-1].body) == {**asked, "model": "org/x"}
    other.close()


def test_a_response_that_another_process_saw_is_asked_of_all(three: Model) -> None:
    for engine in three.engines:
        engine.script = _answer_404
    three.engines[2].script = echo
    quoted = three.name.replace("/", "%2F")
    assert three.ask("GET", f"/v1/responses/resp_b1?model={quoted}").status == 200
    assert three.engines[2].received


def test_a_response_that_nobody_has_is_404(three: Model) -> None:
    for engine in three.engines:
        engine.script = _answer_404
    quoted = three.name.replace("/", "%2F")
    answer = three.ask("GET", f"/v1/responses/resp_c1?model={quoted}")
    assert answer.status == 404
    assert "resp_c1" in answer.error["message"]


def _store(talk: Any, response_id: str) -> None:
    talk.read_body()
    talk.send(json_answer({"id": response_id, "object": "response"}))


def _answer_404(talk: Any) -> None:
    talk.read_body()
    talk.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")


# the list


def test_models_are_listed_with_their_state(model: Model) -> None:
    listed = json.loads(model.ask("GET", "/v1/models").body)
    assert listed["object"] == "list"
    mine = next(each for each in listed["data"] if each["id"] == model.name)
    assert (mine["object"], mine["status"], mine["replicas"]) == ("model", "running", 1)
    assert isinstance(mine["created"], int)
    one = model.ask("GET", f"/v1/models/{model.name}")
    assert json.loads(one.body) == mine
    missing = model.ask("GET", "/v1/models/no%2Fsuch")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


# the fast way


def test_plain_json_takes_the_fast_way(model: Model) -> None:
    if model.way.name != "relay":
        pytest.skip("this way is not the fast one")
    for _ in range(3):
        assert model.post(CHAT, {"model": model.name, "messages": [], "stream": True}).status == 200

    def took() -> list[str]:
        lines = model.ask("GET", "/metrics").body.decode().splitlines()
        counts = [line for line in lines if line.startswith("fleet_requests_total")]
        return [line for line in counts if model.ids[0] in line]

    assert until(
        lambda: any('way="relay"' in line and line.endswith(" 3.0") for line in took()), 20
    )
    assert not any('way="view"' in line for line in took())


def test_requests_that_follow_each_other_are_answered_in_order(model: Model) -> None:
    model.engines[0].script = echo
    bodies = [
        json.dumps({"model": name, "prompt": "x" * size}).encode()
        for name, size in (
            (model.name, 10),
            ("no/such", 10),
            (model.name, 300_000),
            (model.name, 7),
        )
    ]
    caller = model.caller()
    kind = "Content-Type: application/json"
    caller.send(b"".join(head("POST", CHAT, kind, body=body) for body in bodies))
    answers = [caller.answer("POST") for _ in bodies]
    assert [answer.status for answer in answers] == [200, 404, 200, 200]
    lengths = [json.loads(answer.body).get("length") for answer in answers]
    assert lengths == [len(bodies[0]), None, len(bodies[2]), len(bodies[3])]


def test_a_body_that_comes_in_drops_arrives_whole(model: Model) -> None:
    body = json.dumps({"prompt": "abc" * 100, "model": model.name}).encode()
    caller = model.caller()
    for byte in head("POST", CHAT, "Content-Type: application/json", body=body):
        caller.send(bytes([byte]))
    assert caller.answer("POST").status == 200
    assert model.engines[0].received[-1].body == body


def test_a_body_that_does_not_come_is_408(model: Model) -> None:
    caller = model.caller()
    whole = head("POST", CHAT, "Content-Type: application/json", body=b'{"model":"x"}')
    caller.send(whole[:-3])
    assert caller.answer("POST").status == 408
    assert caller.is_closed()


def test_a_caller_who_leaves_in_its_body_leaves_nothing_behind(model: Model) -> None:
    whole = head("POST", CHAT, "Content-Type: application/json", body=b"x" * 1000)
    for _ in range(5):
        caller = model.caller()
        caller.send(whole[:-3])
        caller.close()
    assert model.post(CHAT, {"model": model.name}).status == 200
    assert len(model.received()) == 1


def test_a_caller_who_leaves_ends_the_engines_work(model: Model) -> None:
    model.engines[0].script = silent
    caller = model.caller()
    body = json.dumps({"model": model.name}).encode()
    caller.send(head("POST", CHAT, "Content-Type: application/json", body=body))
    assert until(lambda: bool(model.received()), 20)
    caller.close()
    assert until(lambda: model.received()[0].gone_at is not None, 20)


def test_a_websocket_goes_by_the_query(model: Model) -> None:
    if model.way.name != "relay":
        pytest.skip("this way passes no WebSockets on")

    def upgrade(talk: Talk) -> None:
        talk.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        talk.upgrade()
        talk.send(talk.take(4)[::-1])

    model.engines[0].script = upgrade
    caller = model.caller()
    lines = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
    caller.send(head("GET", f"/v1/realtime?model={model.name.replace('/', '%2F')}", *lines))
    assert caller.read_to(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    caller.send(b"abcd")
    assert caller.read_to(b"dcba") == b"dcba"
