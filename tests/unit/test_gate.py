"""Who gets what: every route of the URL map by every kind of caller, by every method."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from shared.domain.instance import Status
from shared.domain.key import Scope
from shared.store import Change
from shared.store.memory import MemoryStore
from tests.builders import a_key, a_node, an_instance, settings, silent_doorbells
from web.access.keys import KeyTable
from web.app import create_app
from web.metrics.answered import Metrics
from web.metrics.snapshots import Snapshots
from web.proxy.openai import ELSEWHERE
from web.tables.activity import Activity
from web.tables.node_table import NodeTable
from web.tables.routing import RoutingTable

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW")
ASK = ("GET", "HEAD", "POST", "OPTIONS")
READ = ("GET", "HEAD", "OPTIONS")

CONTROL = {
    "/instances": {"GET": 200, "HEAD": 200, "OPTIONS": 200, "POST": 400},  # without a body
    "/instances/<instance_id>": {"GET": 404, "HEAD": 404, "OPTIONS": 200, "DELETE": 404},
    "/instances/<instance_id>/events": {"GET": 404, "HEAD": 404, "OPTIONS": 200},
    "/instances/<instance_id>/logs": {"GET": 404, "HEAD": 404, "OPTIONS": 200},
    "/nodes": {"GET": 200, "HEAD": 200, "OPTIONS": 200},
    "/nodes/<name>": {"GET": 404, "HEAD": 404, "OPTIONS": 200, "DELETE": 404},
    "/nodes/<name>/cordon": {"OPTIONS": 200, "POST": 404},
    "/nodes/<name>/uncordon": {"OPTIONS": 200, "POST": 404},
    "/nodes/<name>/drain": {"OPTIONS": 200, "POST": 404},
    "/metrics": {"GET": 200, "HEAD": 200, "OPTIONS": 200},
}
"""Routes for admins, and what one gets who asks for what is not there; else 405."""

OPEN = {
    "/healthz": {"GET": 200, "HEAD": 200, "OPTIONS": 200},
    "/readyz": {"GET": 200, "HEAD": 200, "OPTIONS": 200},
}
"""Routes for all; another method is for whoever has a key to be told of."""

PROXY = {"/proxy/<instance_id>", "/proxy/<instance_id>/<rest:_>"}

MODELS = {"/v1", "/v1/<rest:_>", "/v1/models", "/v1/models/<rest:_>", *ELSEWHERE}
"""One address: who may ask is told by the model, see tests/integration/test_one_address.py."""

CLASSIFIED = PROXY | MODELS | CONTROL.keys() | OPEN.keys()

BAD = ("none", "unknown", "malformed", "expired", "revoked")
INFERENCE = ("inference", "of-the-model", "of-another-model")
GOOD = (*INFERENCE, "admin")
HEADERS = ("Authorization", "x-api-key")
NOT_LISTENING = 502  # what a request gets that passed: no engine listens there


@dataclass
class Web:
    """The web tier on a store in memory, with one instance that runs and does not listen."""

    app: Flask
    keys: KeyTable
    store: MemoryStore
    tokens: dict[str, str]

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def ask(self, method: str, path: str, caller: str, header: str) -> TestResponse:
        """Ask as one of the kinds of callers, from another machine."""
        token = self.tokens.get(caller)
        value = f"Bearer {token}" if header == "Authorization" else token
        return self.client.open(
            path,
            method=method,
            headers={} if value is None or token is None else {header: value},
            environ_overrides={"REMOTE_ADDR": "10.0.0.7"},
        )


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield a port that refuses connections for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def web(silent_port: int, tmp_path: Path) -> Web:
    store = MemoryStore()
    store.announce(a_node(), "worker")
    store.create(an_instance(instance_id="i1", model_name="org/tiny"), 9)
    for status in (Status.STARTING, Status.RUNNING):
        fields = {"host": "127.0.0.1", "port": silent_port}
        change = Change(
            instance_id="i1", node="one", epoch=1, generation=1, status=status, fields=fields
        )
        assert store.apply(change)
    env = settings(PROXY_ALLOW_PATHS="/wake_up", APP_PORT="5077")
    keys, table = KeyTable(store), RoutingTable(store)
    keys.refresh()
    table.refresh()
    doorbells = silent_doorbells()
    activity = Activity(store)
    app = create_app(
        env,
        store=store,
        doorbells=doorbells,
        table=table,
        nodes=NodeTable(store),
        keys=keys,
        activity=activity,
        metrics=Metrics(Snapshots(tmp_path, 1), table, activity),
    )
    return Web(app, keys, store, {})


@pytest.fixture
def keyed(web: Web) -> Web:
    """Have one key of each kind."""
    kinds: dict[str, dict[str, object]] = {
        "expired": {"expires_at": 1.0},
        "revoked": {},
        "inference": {"scope": Scope.INFERENCE},
        "of-the-model": {"scope": Scope.INFERENCE, "models": ("org/*",)},
        "of-another-model": {"scope": Scope.INFERENCE, "models": ("other/*",)},
        "admin": {},
    }
    for name, changes in kinds.items():
        key, token = a_key(name=name, **changes)
        web.store.add_key(key)
        web.tokens[name] = token.decode()
        if name == "revoked":
            web.store.revoke_key(key.key_id)
    web.tokens["unknown"] = a_key()[1].decode()
    web.tokens["malformed"] = "vfm_\xff_"
    web.keys.refresh()
    return web


def test_every_route_is_classified_here(web: Web) -> None:
    assert {rule.rule for rule in web.app.url_map.iter_rules()} == CLASSIFIED


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("caller", BAD)
def test_without_a_good_key_there_is_401_everywhere_but_on_probes(
    keyed: Web, caller: str, header: str
) -> None:
    for rule, method in product(sorted(CLASSIFIED), METHODS):
        answer = keyed.ask(method, _path(rule), caller, header)
        expected = OPEN.get(rule, {}).get(method, 401)
        assert (answer.status_code, rule, method) == (expected, rule, method)
        if answer.status_code == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert method == "HEAD" or b"Authorization: Bearer" in answer.data
    for path in ("/", "/no/such", "/instances/", "/proxy/", "/proxy/i1/v1/models", "/metrics"):
        assert keyed.ask("GET", path, caller, header).status_code == 401


@pytest.mark.parametrize("header", HEADERS)
def test_an_admin_key_reaches_every_route(keyed: Web, header: str) -> None:
    for (rule, statuses), method in product({**CONTROL, **OPEN}.items(), METHODS):
        answer = keyed.ask(method, _path(rule), "admin", header)
        assert (answer.status_code, rule, method) == (statuses.get(method, 405), rule, method)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("caller", INFERENCE)
def test_an_inference_key_does_not_reach_the_control_api(
    keyed: Web, caller: str, header: str
) -> None:
    for (rule, statuses), method in product(CONTROL.items(), METHODS):
        expected = 403 if method in statuses else 405
        answer = keyed.ask(method, _path(rule), caller, header)
        assert (answer.status_code, rule, method) == (expected, rule, method)
    for rule, statuses in OPEN.items():
        for method in METHODS:
            answer = keyed.ask(method, rule, caller, header)
            assert answer.status_code == statuses.get(method, 405)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    ("caller", "path", "open_by"),
    [
        ("inference", "/v1/chat/completions", ASK),
        ("of-the-model", "/v1/chat/completions", ASK),
        ("admin", "/v1/chat/completions", METHODS),
        ("inference", "/v1/responses/resp_1", ASK),
        ("inference", "/metrics", ()),
        ("of-the-model", "/metrics", ()),
        ("admin", "/metrics", READ),
        *((caller, "/sleep", ()) for caller in ("inference", "of-the-model", "admin")),
        *((caller, "", ()) for caller in ("inference", "of-the-model", "admin")),
        ("inference", "/wake_up", ()),
        ("admin", "/wake_up", METHODS),
    ],
)
def test_a_key_for_the_model_reaches_the_paths_that_are_for_it(
    keyed: Web, caller: str, path: str, open_by: tuple[str, ...], header: str
) -> None:
    for method in METHODS:
        answer = keyed.ask(method, f"/proxy/i1{path}", caller, header)
        assert (answer.status_code, method) == (NOT_LISTENING if method in open_by else 403, method)


@pytest.mark.parametrize("header", HEADERS)
def test_a_key_of_another_model_cannot_tell_an_instance_from_none(keyed: Web, header: str) -> None:
    paths = ("", "/v1/models", "/metrics", "/sleep", "/wake_up", "/no/such")
    for path, method in product(paths, METHODS):
        there, not_there = (
            keyed.ask(method, f"/proxy/{name}{path}", "of-another-model", header)
            for name in ("i1", "i2")
        )
        assert (there.status_code, not_there.status_code) == (404, 404)
        assert there.data == not_there.data.replace(b"i2", b"i1")
        for answer in (there, not_there):
            del answer.headers["X-Request-Id"]
        assert dict(there.headers) == dict(not_there.headers)


def test_a_key_of_another_model_is_not_told_how_an_instance_is(keyed: Web) -> None:
    keyed.store.stop("i1", reason="enough", by="user")
    answer = keyed.ask("GET", "/proxy/i1/v1/models", "of-another-model", "x-api-key")
    assert (answer.status_code, answer.json) == (
        404,
        {
            "error": {
                "message": "no instance i1",
                "type": "invalid_request_error",
                "param": None,
                "code": "not_found",
            }
        },
    )


@pytest.mark.parametrize("caller", GOOD)
def test_whoever_has_a_key_is_told_what_is_not_there(keyed: Web, caller: str) -> None:
    assert keyed.ask("GET", "/no/such", caller, "x-api-key").status_code == 404


def test_two_keys_are_refused_and_one_twice_is_one(keyed: Web) -> None:
    admin, other = keyed.tokens["admin"], keyed.tokens["inference"]
    for second, expected in ((admin, 200), (other, 400)):
        headers = {"Authorization": f"Bearer {admin}", "x-api-key": second}
        assert keyed.client.get("/instances", headers=headers).status_code == expected


def test_a_key_in_the_query_string_counts_for_nothing(keyed: Web) -> None:
    for name in ("api_key", "key", "x-api-key", "access_token", "Authorization"):
        answer = keyed.client.get(f"/instances?{name}={keyed.tokens['admin']}")
        assert answer.status_code == 401


def test_since_the_first_key_a_program_on_this_machine_needs_one_too(keyed: Web) -> None:
    assert keyed.client.get("/instances").status_code == 401


# while no key was ever made


def test_without_keys_a_program_on_this_machine_may_do_all(web: Web) -> None:
    for (rule, statuses), method in product({**CONTROL, **OPEN}.items(), METHODS):
        answer = web.client.open(_path(rule), method=method)
        assert (answer.status_code, rule, method) == (statuses.get(method, 405), rule, method)
    for path, expected in (("/v1/models", 502), ("/metrics", 502), ("/sleep", 403)):
        assert web.client.get(f"/proxy/i1{path}").status_code == expected


def test_without_keys_an_sdk_that_must_send_one_is_let_in(web: Web) -> None:
    headers = {"Authorization": "Bearer unused", "x-api-key": "another"}
    assert web.client.get("/instances", headers=headers).status_code == 200


def test_without_keys_another_machine_gets_401_everywhere_but_on_probes(web: Web) -> None:
    for rule, method in product(sorted(CLASSIFIED), METHODS):
        answer = web.ask(method, _path(rule), "none", "x-api-key")
        assert answer.status_code == OPEN.get(rule, {}).get(method, 401)
    refusal = web.ask("GET", "/instances", "none", "x-api-key").json
    assert refusal
    assert "ssh -L 5077:localhost:5077" in refusal["error"]["message"]


# probes


def test_only_admins_are_told_what_is_not_ready(keyed: Web) -> None:
    keyed.store.retire("one", 1)
    for caller in (*BAD, *INFERENCE):
        answer = keyed.ask("GET", "/readyz", caller, "x-api-key")
        told = answer.json or {}
        assert (answer.status_code, told.keys()) == (503, {"status", "error"})
        assert (told["status"], told["error"]["message"]) == ("not ready", "not ready")
    told = keyed.ask("GET", "/readyz", "admin", "x-api-key").json or {}
    assert told["status"] == "not ready"
    assert (told["redis"], told["workers"]) == ("ok", "no worker sends a heartbeat")
    assert told["error"]["message"] == "not ready: workers: no worker sends a heartbeat"


def test_before_keys_are_read_only_healthz_answers(silent_port: int, tmp_path: Path) -> None:
    del silent_port
    store, env = MemoryStore(), settings()
    table, activity = RoutingTable(store), Activity(store)
    app = create_app(
        env,
        store=store,
        doorbells=silent_doorbells(),
        table=table,
        nodes=NodeTable(store),
        keys=KeyTable(store),
        activity=activity,
        metrics=Metrics(Snapshots(tmp_path, 1), table, activity),
    )
    for rule, method in product(sorted(CLASSIFIED), METHODS):
        answer = app.test_client().open(_path(rule), method=method)
        expected = 200 if rule == "/healthz" and method in OPEN[rule] else 503
        assert (answer.status_code, rule, method) == (expected, rule, method)


def _path(rule: str) -> str:
    """Return a path of the rule; with an instance or a node that is not there."""
    return (
        rule.replace("<name>", "none")
        .replace("<instance_id>", "none-a")
        .replace("<rest:_>", "v1/models")
    )
