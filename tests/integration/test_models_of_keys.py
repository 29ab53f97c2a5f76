"""One address with API keys, and with requests that are kept together; through both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from shared.domain.key import Scope
from tests.builders import a_key
from tests.demo.waiting import until
from tests.integration.conformance import Answer, Caller, Way, running_way, ways
from tests.integration.raw_engine import RawEngine
from tests.integration.test_one_address import CHAT, head

JSON = "Content-Type: application/json"


@pytest.fixture(params=ways())
def keyed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp(f"keys-{request.param}")
    with running_way(request.param, folder, PROXY_ALLOW_PATHS="") as way:
        yield way


def ask(way: Way, token: bytes, method: str, path: str, body: bytes = b"") -> Answer:
    """Ask with a key, over a connection of its own."""
    with closing(Caller(way.address)) as caller:
        lines = [f"Authorization: Bearer {token.decode()}", *([JSON] if body else [])]
        caller.send(head(method, path, *lines, body=body))
        return caller.answer(method)


def make_key(way: Way, **changes: object) -> bytes:
    """Make a key; return what its owner sends."""
    key, token = a_key(**changes)
    assert way.store.add_key(key)
    return token


def test_a_key_is_for_its_models_by_any_of_their_names(keyed: Way) -> None:
    with closing(RawEngine()) as engine:
        params = {"served_model_name": ["org/tiny", "tiny"]}
        keyed.record(engine.port, {"model_name": "org/tiny-chat", "params": params})
        keyed.record(engine.port, {"model_name": "other/secret"})
        admin = make_key(keyed)
        mine = make_key(keyed, scope=Scope.INFERENCE, models=("org/*",))
        others = make_key(keyed, scope=Scope.INFERENCE, models=("other/*",))
        nothings = make_key(keyed, scope=Scope.INFERENCE, models=("none/*",))

        def listed(token: bytes) -> set[str]:
            found = json.loads(ask(keyed, token, "GET", "/v1/models").body)
            return {each["id"] for each in found.get("data", [])}

        assert until(lambda: listed(admin) == {"org/tiny", "tiny", "other/secret"}, 20)
        assert until(lambda: listed(mine) == {"org/tiny", "tiny"}, 20)
        assert until(lambda: listed(others) == {"other/secret"}, 20)
        assert listed(nothings) == set()

        def statuses(token: bytes) -> list[int]:
            bodies = [b'{"model":"%b"}' % name for name in (b"org/tiny", b"tiny", b"other/secret")]
            return [ask(keyed, token, "POST", CHAT, body).status for body in bodies]

        assert statuses(admin) == [200, 200, 200]
        assert statuses(mine) == [200, 200, 404]
        assert statuses(others) == [404, 404, 200]
        assert statuses(nothings) == [404, 404, 404]
        assert statuses(b"vfm_nobodys") == [401, 401, 401]
        told = ask(keyed, others, "POST", CHAT, b'{"model":"tiny"}').error
        assert told["code"] == "model_not_found"
        assert "models there are: other/secret" in told["message"]
        assert ask(keyed, others, "GET", "/v1/models/org%2Ftiny").status == 404
        for path in ("/v1/load_lora_adapter", "/v1/completions/render", "/v1/nothing"):
            for token in (mine, admin):
                assert ask(keyed, token, "POST", path, b'{"model":"tiny"}').status == 403
        engine.forget()
        for token in (mine, others, nothings):
            answer = ask(keyed, token, "GET", "/v1/responses/resp_1?model=other%2Fsecret")
            assert answer.status == (200 if token is others else 404)
        assert {got.target for got in engine.received} == {
            "/v1/responses/resp_1",
            "/v1/responses/resp_1?model=other%2Fsecret",
        }


@pytest.mark.parametrize("routing", ["prefix", "session"])
@pytest.mark.parametrize("way_name", ways())
def test_what_belongs_together_goes_to_one_replica(
    way_name: str, routing: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engines = [RawEngine() for _ in range(3)]
    folder = tmp_path_factory.mktemp(f"{routing}-{way_name}")
    with running_way(way_name, folder, ROUTING=routing) as way:
        for engine in engines:
            way.record(engine.port, {"model_name": "m"})

        def post(session: int, said: str) -> int:
            chat = {"model": "m", "messages": [{"role": "user", "content": said}]}
            with closing(Caller(way.address)) as caller:
                lines = (JSON, f"X-Session-ID: {session}")
                caller.send(head("POST", CHAT, *lines, body=json.dumps(chat).encode()))
                return caller.answer("POST").status

        def known() -> int:
            with closing(Caller(way.address)) as caller:
                caller.send(head("GET", "/v1/models/m"))
                replicas: int = json.loads(caller.answer().body).get("replicas", 0)
                return replicas

        assert until(lambda: known() == 3, 20)
        went: dict[int, set[int]] = {}
        for number in range(20):
            for time in range(3):
                for engine in engines:
                    engine.forget()
                is_session = routing == "session"
                said = f"{time}" if is_session else f"question {number}" + " and so on" * 40
                said += "" if is_session else str(time)  # behind what counts
                assert post(number if is_session else time, said) == 200
                got = [at for at, engine in enumerate(engines) if engine.received]
                went.setdefault(number, set()).update(got)
        assert all(len(replicas) == 1 for replicas in went.values()), went
        assert len(set.union(*went.values())) == 3
    for engine in engines:
        engine.close()
