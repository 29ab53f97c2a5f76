"""Who goes the fast way: those about whom all is known, and for as long as that stays so."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.domain.instance import Status
from shared.domain.key import Scope
from shared.store import Change
from shared.store.memory import MemoryStore
from tests.builders import a_key, a_node, an_instance
from web.access.engine_paths import EnginePaths
from web.access.keys import KeyTable
from web.relay.admission import Admission, Grant, engine_head
from web.relay.request import PlainRequest, plain_request
from web.tables.routing import RoutingTable

ENGINE_KEY = "vfe_the-key-of-this-instance"
CHAT = b"POST /proxy/i1/v1/chat/completions HTTP/1.1"
START_S = 100.0


def asking(
    *headers: bytes, start: bytes = CHAT, host: bytes = b"localhost:5000", token: bytes = b""
) -> PlainRequest:
    """Return a plain request for the instance `i1`."""
    bearer = [b"Authorization: Bearer " + token] if token else []
    request = plain_request(b"\r\n".join([start, b"Host: " + host, *bearer, *headers]))
    assert request is not None
    return request


@dataclass
class Fleet:
    """What one process knows of a fleet with the instance `i1` of `org/tiny`, which runs."""

    store: MemoryStore
    table: RoutingTable
    keys: KeyTable
    admission: Admission

    def admit(
        self,
        request: PlainRequest,
        last: Grant | None = None,
        now: float = START_S,
        *,
        is_local: bool = False,
    ) -> Grant | None:
        """Return the grant by which the request may go to `i1`."""
        admitted = self.admission.admit(request, last, now, is_local=is_local)
        if admitted is None:
            return None
        assert admitted[0] == self.table.serving("i1")
        return admitted[1]

    def granted(self, request: PlainRequest) -> Grant:
        """Return the grant of a request that has one."""
        grant = self.admit(request)
        assert grant is not None
        return grant

    def make_key(self, **changes: object) -> bytes:
        """Make a key and hear of it; return its token."""
        key, token = a_key(**changes)
        assert self.store.add_key(key)
        self.keys.refresh()
        return token

    def move(self, status: Status, **fields: object) -> None:
        """Move the instance along and hear of it."""
        change = Change(
            instance_id="i1", node="one", epoch=1, generation=1, status=status, fields=fields
        )
        assert self.store.apply(change)
        self.table.refresh()


@pytest.fixture
def fleet() -> Fleet:
    store = MemoryStore()
    store.announce(a_node(), "worker")
    store.create(an_instance(instance_id="i1", model_name="org/tiny", engine_key=ENGINE_KEY), 9)
    table, keys = RoutingTable(store), KeyTable(store)
    keys.refresh()
    made = Fleet(
        store, table, keys, Admission(table, keys, EnginePaths(("/v1/load_lora_adapter",)))
    )
    made.move(Status.STARTING)
    made.move(Status.RUNNING, host="10.0.0.7", port=9000)
    return made


# while there are keys


@pytest.mark.parametrize("scope", list(Scope))
def test_who_has_a_key_may_ask(fleet: Fleet, scope: Scope) -> None:
    token = fleet.make_key(scope=scope)
    assert fleet.admit(asking(token=token))
    assert fleet.admit(asking(b"x-api-key: " + token))
    assert fleet.admit(asking(b"Via: 1.1 nginx", b"Origin: https://a", host=b"b", token=token))


def test_who_has_none_may_not(fleet: Fleet) -> None:
    token = fleet.make_key()
    assert fleet.admit(asking(), is_local=True) is None
    assert fleet.admit(asking(token=token[:-1]), is_local=True) is None
    assert fleet.admit(asking(b"Authorization: Basic " + token), is_local=True) is None


def test_a_key_is_for_its_models(fleet: Fleet) -> None:
    mine = fleet.make_key(scope=Scope.INFERENCE, models=("org/*",))
    others = fleet.make_key(scope=Scope.INFERENCE, models=("other/*",))
    assert fleet.admit(asking(token=mine))
    assert fleet.admit(asking(token=others)) is None


@pytest.mark.parametrize(
    "start",
    [
        b"POST /proxy/i1/v1/load_lora_adapter HTTP/1.1",  # for admins, but the other way
        b"POST /proxy/i1/v1/unload_lora_adapter HTTP/1.1",
        b"POST /proxy/i1/v1/chat/completions/render HTTP/1.1",
        b"POST /proxy/i1/v1/responses/render HTTP/1.1",
        b"GET /proxy/i1/v1/unheard-of HTTP/1.1",
        b"GET /proxy/i2/v1/models HTTP/1.1",
    ],
)
def test_any_path_but_those_of_inference_goes_the_other_way(fleet: Fleet, start: bytes) -> None:
    token = fleet.make_key()
    assert fleet.admit(asking(start=start, token=token)) is None


def test_a_query_does_not_hide_a_path(fleet: Fleet) -> None:
    token = fleet.make_key()
    hidden = b"POST /proxy/i1/v1/load_lora_adapter?/v1/models HTTP/1.1"
    assert fleet.admit(asking(start=hidden, token=token)) is None
    assert fleet.admit(asking(start=b"GET /proxy/i1/v1/models?a=/metrics HTTP/1.1", token=token))


# while no key was ever made


@pytest.mark.parametrize("host", [b"localhost:5000", b"127.0.0.1", b"[::1]:5000", b"LOCALHOST"])
def test_a_program_on_this_machine_may_ask(fleet: Fleet, host: bytes) -> None:
    assert fleet.admit(asking(host=host), is_local=True)


def test_another_machine_may_not(fleet: Fleet) -> None:
    assert fleet.admit(asking(), is_local=False) is None


@pytest.mark.parametrize(
    "host", [b"evil.example", b"localhost.evil.example", b"localhost@evil", b"\xff", b"a b"]
)
def test_a_page_of_another_name_may_not(fleet: Fleet, host: bytes) -> None:
    assert fleet.admit(asking(host=host), is_local=True) is None


@pytest.mark.parametrize(
    "line",
    [b"Origin: http://localhost:5000", b"Sec-Fetch-Site: none", b"X-Forwarded-For: 127.0.0.1"],
)
def test_what_a_page_or_a_proxy_may_have_sent_goes_the_other_way(fleet: Fleet, line: bytes) -> None:
    assert fleet.admit(asking(line), is_local=True) is None


def test_nobody_may_before_keys_were_read() -> None:
    store = MemoryStore()
    unread = Admission(RoutingTable(store), KeyTable(store), EnginePaths(()))
    assert unread.admit(asking(), None, START_S, is_local=True) is None


@pytest.mark.parametrize(
    ("peer", "is_local"),
    [
        (("127.0.0.1", 1), True),
        (("127.9.9.9", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("10.0.0.7", 1), False),
        (("::ffff:10.0.0.7", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 2), False),
        ("/run/socket", False),
        ("", False),
        (None, False),
    ],
)
def test_where_a_connection_comes_from(fleet: Fleet, peer: object, *, is_local: bool) -> None:
    assert fleet.admission.is_local(peer) is is_local


# for how long


def test_a_grant_holds_for_the_same_head(fleet: Fleet) -> None:
    request = asking(token=fleet.make_key())
    grant = fleet.granted(request)
    assert fleet.admit(request, grant) is grant
    assert fleet.admit(request, grant, START_S + 0.999) is grant


def test_a_grant_ends(fleet: Fleet) -> None:
    request = asking(token=fleet.make_key())
    grant = fleet.granted(request)
    later = fleet.admit(request, grant, START_S + 1.0)
    assert later is not None
    assert later is not grant


def test_a_grant_is_not_for_another_head(fleet: Fleet) -> None:
    token = fleet.make_key()
    grant = fleet.granted(asking(token=token))
    assert fleet.admit(asking(token=b"vfm_other"), grant) is None
    other = asking(b"X-A: 1", token=token)
    new = fleet.admit(other, grant)
    assert new is not None
    assert b"X-A: 1" in new.head


def test_a_grant_ends_with_its_key(fleet: Fleet) -> None:
    key, token = a_key()
    fleet.store.add_key(key)
    fleet.keys.refresh()
    request = asking(token=token)
    grant = fleet.granted(request)
    assert fleet.store.revoke_key(key.key_id)
    fleet.keys.refresh()
    assert fleet.admit(request, grant) is None


def test_a_grant_ends_soon_after_its_key(fleet: Fleet) -> None:
    request = asking(token=fleet.make_key(expires_at=fleet.store.now() + 0.5))
    grant = fleet.granted(request)
    threading.Event().wait(0.5)
    assert fleet.admit(request, grant, START_S + 1.0) is None


def test_who_was_admitted_is_asked_for_again(fleet: Fleet) -> None:
    key, token = a_key(models=("org/*",))
    instance = fleet.table.serving("i1")
    assert instance is not None
    local, keyed = asking(), asking(token=token)
    assert fleet.admission.still_may_use(local, instance, is_local=True)
    fleet.store.add_key(key)
    fleet.keys.refresh()
    assert not fleet.admission.still_may_use(local, instance, is_local=True)
    assert fleet.admission.still_may_use(keyed, instance, is_local=False)
    fleet.store.revoke_key(key.key_id)
    fleet.keys.refresh()
    assert not fleet.admission.still_may_use(keyed, instance, is_local=False)


def test_the_first_key_ends_the_loopback_rule(fleet: Fleet) -> None:
    request = asking()
    grant = fleet.admit(request, is_local=True)
    assert grant is not None
    fleet.make_key()
    assert fleet.admit(request, grant, is_local=True) is None


def test_a_grant_ends_when_the_instance_stops(fleet: Fleet) -> None:
    request = asking(token=fleet.make_key())
    grant = fleet.granted(request)
    fleet.move(Status.BACKOFF)
    assert fleet.admit(request, grant) is None


def test_a_grant_is_for_one_place(fleet: Fleet) -> None:
    request = asking(token=fleet.make_key())
    grant = fleet.granted(request)
    fleet.move(Status.UNHEALTHY, port=9001)
    fleet.move(Status.RUNNING, port=9001)
    new = fleet.admit(request, grant)
    assert new is not None
    assert b"\r\nHost: 10.0.0.7:9001\r\n" in new.head


# requests for models


MODELS = b"POST /v1/chat/completions HTTP/1.1"
JSON = (b"Content-Type: application/json", b"Content-Length: 2")


def for_a_model(token: bytes, start: bytes = MODELS) -> PlainRequest:
    """Return a plain request for a model."""
    return asking(*JSON, start=start, token=token)


def test_a_grant_for_models_holds_like_one_for_an_instance(fleet: Fleet) -> None:
    key, token = a_key()
    fleet.store.add_key(key)
    fleet.keys.refresh()
    request = for_a_model(token)
    admit = fleet.admission.admit_to_models
    grant = admit(request, None, START_S, is_local=False)
    assert grant is not None
    assert grant.principal.key_id == key.key_id
    assert admit(request, grant, START_S + 0.9, is_local=False) is grant
    assert admit(request, grant, START_S + 1.0, is_local=False) is not grant
    assert admit(for_a_model(token), grant, START_S, is_local=False) is not grant
    assert admit(for_a_model(b"vfm_x"), grant, START_S, is_local=True) is None
    fleet.store.revoke_key(key.key_id)
    fleet.keys.refresh()
    assert admit(request, grant, START_S, is_local=False) is None


def test_only_paths_of_inference_are_for_models(fleet: Fleet) -> None:
    token = fleet.make_key()
    for path in (b"/v1/load_lora_adapter", b"/v1/completions/render", b"/v1/unheard-of"):
        request = for_a_model(token, b"POST %b HTTP/1.1" % path)
        assert fleet.admission.admit_to_models(request, None, START_S, is_local=False) is None


def test_each_replica_gets_a_head_of_its_own(fleet: Fleet) -> None:
    request = for_a_model(fleet.make_key())
    grant = fleet.admission.admit_to_models(request, None, START_S, is_local=False)
    assert grant is not None
    for port in (9000, 9001, 9000):
        instance = an_instance(host="10.0.0.7", port=port, engine_key=ENGINE_KEY)
        assert grant.head_for(instance) == engine_head(request, instance)
        assert grant.knows(instance, "org/tiny")
        assert not grant.knows(instance, "chat")


# what the engine gets


def test_the_engine_gets_its_own_key_and_name(fleet: Fleet) -> None:
    request = asking(
        b"Accept: text/event-stream",
        b"Cookie: session=1",
        b"Content-Type: application/json",
        b"Connection: close",
        b"Content-Length: 5",
        b"X-Request-Id: mine",
        start=b"POST /proxy/i1/v1/completions?a=/b HTTP/1.1",
        token=fleet.make_key(),
    )
    assert fleet.granted(request).head == (
        b"POST /v1/completions?a=/b HTTP/1.1\r\nHost: 10.0.0.7:9000"
        b"\r\nAuthorization: Bearer vfe_the-key-of-this-instance"
        b"\r\nAccept: text/event-stream\r\nContent-Type: application/json"
    )


def test_a_handshake_is_the_relays_own() -> None:
    request = asking(
        b"Connection: keep-alive, upgrade",
        b"Upgrade: WebSocket",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        start=b"GET /proxy/i1/v1/realtime HTTP/1.1",
    )
    head = engine_head(request, an_instance(host="::1", port=9000, engine_key=ENGINE_KEY))
    assert head == (
        b"GET /v1/realtime HTTP/1.1\r\nHost: [::1]:9000"
        b"\r\nAuthorization: Bearer vfe_the-key-of-this-instance"
        b"\r\nConnection: Upgrade\r\nUpgrade: websocket"
        b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    )


_VALUES = st.text(st.characters(max_codepoint=255), max_size=12).map(lambda v: v.encode("latin-1"))
_LINES = st.builds(
    lambda name, value: name + b": " + value,
    st.sampled_from([b"Content-Type", b"X-A", b"Cookie", b"X-Request-Id", b"Accept", b"X-API-Key"]),
    _VALUES | st.sampled_from([b"a\r\nHost: b", b"a\nHost: b", b"a\rb", b"a\x00b", b"a\xffb"]),
)


@given(st.lists(_LINES, max_size=4), _VALUES)
@example([b"Content-Type: a/b"], b"a=b")
def test_nothing_a_caller_sends_becomes_a_line_of_its_own(lines: list[bytes], query: bytes) -> None:
    start = b"POST /proxy/i1/v1/completions?%b HTTP/1.1" % query
    request = plain_request(b"\r\n".join([start, b"Host: x", b"Authorization: Bearer t", *lines]))
    if request is None:
        return
    head = engine_head(request, an_instance(host="10.0.0.7", port=9000, engine_key=ENGINE_KEY))
    engine = h11.Connection(h11.SERVER)
    engine.receive_data(head + b"\r\n\r\n")
    read = engine.next_event()
    assert isinstance(read, h11.Request)
    assert (read.method, read.target) == (b"POST", request.target)
    assert list(read.headers)[:2] == [
        (b"host", b"10.0.0.7:9000"),
        (b"authorization", b"Bearer vfe_the-key-of-this-instance"),
    ]
    passed_on = [line for line in lines if line.startswith((b"X-A:", b"Accept:", b"Content-Type:"))]
    assert len(list(read.headers)) <= 2 + len(passed_on)
    assert {name for name, _ in list(read.headers)[2:]} <= {b"x-a", b"accept", b"content-type"}
