"""Requests that say their model oddly: both ways take the same decision, and alter not a byte.

What a second reader (the standard library's) takes for the model is where the request may go; it
may always be refused. More of them: `pytest FILE --hypothesis-profile=long`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from email import message_from_bytes
from urllib.parse import parse_qs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.demo.waiting import until
from tests.integration.conformance import ENGINE_KEY, Caller, Way, running_way, ways
from tests.integration.raw_engine import RawEngine
from tests.integration.test_fuzz import fuzzed
from tests.integration.test_one_address import CHAT, head

MODELS = ("org/one", "zwei-é")
JSON = "application/json"
SECRETS = ("Cookie: a=b", "Api-Key: a", "Cookie2: a", "X-Api-Key: callers")


@dataclass(frozen=True)
class Sent:
    """One request: how it says its model, and in which framing."""

    body: bytes
    content_type: str = JSON
    query: str = ""
    chunked: bool = False


class Both:
    """Two models behind each of the ways."""

    def __init__(self, found: dict[str, Way]) -> None:
        self.ways = found
        self.engines = {name: [RawEngine() for _ in MODELS] for name in found}
        for name, way in found.items():
            for engine, model in zip(self.engines[name], MODELS, strict=True):
                way.record(engine.port, {"model_name": model})
        assert until(lambda: all(self._knows(way) for way in found.values()), 20)

    def decision(self, name: str, sent: Sent) -> str:
        """Return which model a way's request reached, or how it was refused."""
        for engine in self.engines[name]:
            engine.forget()
        target = f"{CHAT}{sent.query}"
        lines = [f"Content-Type: {sent.content_type}", "Authorization: Bearer callers", *SECRETS]
        with closing(Caller(self.ways[name].address)) as caller:
            caller.send(head("POST", target, *lines, body=sent.body, chunked=sent.chunked))
            answer = caller.answer("POST")
        reached = [
            (model, got)
            for model, engine in zip(MODELS, self.engines[name], strict=True)
            for got in engine.received
        ]
        if answer.status != 200:
            assert not reached
            return f"{answer.status} {answer.error['code']} {answer.error['message']}"
        ((model, got),) = reached
        assert (got.method, got.target) == ("POST", target)
        assert got.header("content-type") == sent.content_type.encode().decode("latin-1")
        assert (got.length, got.digest) == (len(sent.body), hashlib.sha256(sent.body).hexdigest())
        assert got.header("authorization") == f"Bearer {ENGINE_KEY}"
        assert {got.header(line.partition(":")[0].lower()) for line in SECRETS} == {None}
        return model

    @staticmethod
    def _knows(way: Way) -> bool:
        with closing(Caller(way.address)) as caller:
            caller.send(head("GET", "/v1/models"))
            listed = json.loads(caller.answer().body)["data"]
        return {each["id"] for each in listed} == set(MODELS)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("odd")
        yield Both(
            {
                name: stack.enter_context(running_way(name, folder / name, ROUTING="prefix"))
                for name in ways()
            }
        )


def meant(sent: Sent) -> set[str]:
    """Return the models that a request names, as the standard library reads it."""
    said = set(parse_qs(sent.query[1:]).get("model", []))
    if sent.content_type == JSON:
        return said | {json.loads(sent.body)["model"]}
    form = message_from_bytes(f"Content-Type: {sent.content_type}\r\n\r\n".encode() + sent.body)
    for part in form.walk():
        if part.get_param("name", header="content-disposition") == "model":
            value = part.get_payload(decode=True)
            assert isinstance(value, bytes)
            said.add(value.decode())
    return said


# JSON


@st.composite
def a_string(draw: st.DrawFn, text: str) -> bytes:
    """Return a JSON string, with some of its characters written in another way."""
    escaped = draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    return b'"%b"' % b"".join(
        b"\\u%04x" % ord(char) if escape else char.encode()
        for char, escape in zip(text, escaped, strict=True)
    )


_NAMED = st.sampled_from([*MODELS, *MODELS, *MODELS, "no/such", "org/one ", "ORG/ONE", ""])
_MODEL = st.tuples(
    a_string("model"),
    _NAMED.flatmap(a_string)
    | st.sampled_from([b"null", b"7", b'["org/one"]', b'"\\ud800"', b'"\\udcff\\ud83d"', b"NaN"]),
)
_DEEP = b"[" * 300 + b"]" * 300
_OTHER = st.tuples(
    st.sampled_from(
        [b'"a"', b'"Model"', b'"model "', b'"\\ud800"', b'"prompt"', b'"input"', b'"stream"']
    ),
    st.sampled_from(
        [
            b"NaN", b"-Infinity", b"1e999999", b"true", b"1" * 4000, b"1" * 5000, _DEEP,
            b'{"model":"no"}', b'"\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\x01"', b'"\\x"',
            b'{"model":"org/one","model":"zwei"}', b'"' + b"x" * 900 * 1024 + b'"',
            b'"' + b"\xc3\xa9" * 600 * 1024 + b'"', b"[" * 50_000, b"[" * 50_000 + b"]" * 50_000,
        ]
    ),
) | st.tuples(
    st.sampled_from([b'"previous_response_id"', b'"messages"']),
    st.sampled_from(
        [
            b'"\\ud800"', b'"../../metrics"', b'"resp_1"', b'"a b\\r\\n"', b"[]", b'[{"role":%b}]'
            % _DEEP, b'[{"role":"user","content":%b}]' % _DEEP, b"[[{}]]",
        ]
    ),
)  # fmt: skip


@st.composite
def some_json(draw: st.DrawFn) -> Sent:
    """Return JSON with a model in it, usually."""
    models = draw(st.lists(_MODEL, min_size=1, max_size=1) | st.lists(_MODEL, max_size=2))
    members = draw(st.permutations([*draw(st.lists(_OTHER, max_size=2)), *models]))
    blank = draw(st.sampled_from([b"", b" ", b"\r\n\t"]))
    colon, comma = blank + b":" + blank, blank + b"," + blank
    body = b"{" + blank + comma.join(colon.join(member) for member in members) + blank + b"}"
    odd = draw(st.sampled_from([""] * 6 + ["bom", "more", "cut", "utf-16", "list"]))
    match odd:
        case "bom":
            body = b"\xef\xbb\xbf" + body
        case "more":
            body += b"{}"
        case "cut":
            body = body[:-1]
        case "utf-16":
            body = body.decode("latin-1").encode("utf-16")
        case "list":
            body = b"[" + body + b"]"
    return Sent(body, query=draw(_QUERY), chunked=draw(st.booleans()))


_QUERY = st.sampled_from(
    [
        "", "", "", "", "?a=b", "?model=org/one", "?model=zwei-%C3%A9", "?model=no",
        "?model=", "?model=org/one&model=org/one", "?mod%65l=org%2Fone", "?model=org%FFone",
    ]
)  # fmt: skip


# forms

_PLACE = b'Content-Disposition: form-data; name="%b"'


@st.composite
def a_form(draw: st.DrawFn) -> Sent:
    """Return a form with a model in it, usually."""
    boundary = draw(
        st.sampled_from(
            [
                "x",
                "----WebKitFormBoundaryAaB03x",
                "b" * 70,
                "b" * 71,
                "a'()+_,-./:=?",
                "a b",
                "",
                "é",
            ]
        )
    )
    written = draw(
        st.sampled_from(
            ['boundary="{}"', "boundary={}", "BOUNDARY={}", 'boundary="{}"; charset=utf-8',
             "boundary=other; boundary={}", "boundary={}; boundary=other", "boundary*=utf-8''{}"]
        )
    )  # fmt: skip
    names = draw(
        st.lists(
            st.sampled_from(
                [_PLACE % b"model", _PLACE % b"model", _PLACE % b"prompt",
                 b"content-disposition:form-data;name=model",
                 b'Content-Disposition: form-data; name="model"; filename="model"',
                 b'Content-Disposition: form-data; name="file"; filename="name=\\"model\\""',
                 b"Content-Disposition: form-data; name=\"file\"; name*=utf-8''model",
                 _PLACE % b"mod%65l", _PLACE % b"Model", b"Content-Type: text/plain"]
            ),
            max_size=3,
        )
    )  # fmt: skip
    values = [draw(st.sampled_from(_VALUES)) for _ in names]
    mark = boundary.encode()
    body = draw(st.sampled_from([b"", b"", b"before\r\n"]))
    for name, value in zip(names, values, strict=True):
        body += b"--%b\r\n%b\r\n\r\n%b\r\n" % (mark, name, value)
    body += draw(st.sampled_from([b"--%b--\r\n" % mark] * 5 + [b"--%b--" % mark, b"", b"--x"]))
    if draw(st.sampled_from([False] * 6 + [True])):
        body = body.replace(b"\r\n", b"\n")
    kind = f"multipart/form-data; {written.format(boundary)}"
    return Sent(body, kind, draw(_QUERY), draw(st.booleans()))


_VALUES = [
    *(model.encode() for model in MODELS for _ in range(3)), b"no/such", b"", b"\xff",
    b"org/one\r\n", b"x" * 900 * 1024, b"--x", b"\r\n--x--\r\n",
]  # fmt: skip


@fuzzed
@given(sent=some_json() | a_form())
@example(Sent(b'{"model":"org/one"}'))
@example(Sent(b'{"model":"org/one","previous_response_id":"\\ud800"}'))
@example(Sent(b'{"model":"org/one","input":' + b"[" * 900 + b"]" * 900 + b"}"))
@example(Sent(b'{"prompt":"' + b"x" * 900 * 1024 + b'","\\u006dodel":"zwei-\\u00e9"}'))
@example(
    Sent(
        b"--x\r\n%b\r\n\r\norg/one\r\n--x--\r\n" % (_PLACE % b"model"),
        "multipart/form-data; boundary=x",
    )
)
def test_both_ways_decide_alike_and_alter_nothing(both: Both, sent: Sent) -> None:
    decisions = {name: both.decision(name, sent) for name in both.ways}
    assert len(set(decisions.values())) == 1, decisions
    (decision,) = set(decisions.values())
    if decision in MODELS:
        assert meant(sent) == {decision}
    else:
        assert decision.startswith(("400 ", "404 model_not_found ")), decision
