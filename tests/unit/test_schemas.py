"""Request bodies and arguments: each bad one is refused with the field's name."""

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from shared.errors import InvalidRequest, NotFound
from web.control import arguments
from web.control.arguments import flag, tail_lines, wait_seconds
from web.control.schemas import CreateRequest, create_request


def a_body(**fields: Any) -> bytes:
    """Return the body of a good request, with `fields`."""
    return json.dumps({"model_name": "org/m"} | fields).encode()


def test_a_model_name_is_enough() -> None:
    assert create_request(b'{"model_name": "org/m"}') == CreateRequest(
        model_name="org/m", params={}, env={}, timeout=None
    )


def test_all_fields_are_read() -> None:
    env = {"OMP_NUM_THREADS": "2"}
    body = a_body(params={"max-model-len": 4096, "seed": None}, env=env, timeout=0)
    assert create_request(body) == CreateRequest(
        model_name="org/m", params={"max_model_len": 4096, "seed": None}, env=env, timeout=0
    )


@pytest.mark.parametrize(
    "fields", [{"params": None}, {"timeout": None}, {"params": {}}, {"env": None}]
)
def test_null_is_the_same_as_absent(fields: dict[str, Any]) -> None:
    assert create_request(a_body(**fields)) == create_request(a_body())


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (a_body(name="x"), "name"),
        (b"{}", "model_name"),
        (a_body(model_name=None), "model_name"),
        (a_body(model_name=""), "model_name"),
        (a_body(model_name="  "), "model_name"),
        (a_body(model_name=5), "model_name"),
        (a_body(model_name=["a"]), "model_name"),
        (a_body(model_name=" a"), "model_name"),
        (a_body(model_name="a\n"), "model_name"),
        (a_body(model_name="a\x00b"), "model_name"),
        (a_body(model_name="a\u202eb"), "model_name"),
        (a_body(model_name="\ud800"), "model_name"),
        (a_body(model_name="--port=1"), "model_name"),
        (a_body(model_name="-m"), "model_name"),
        (a_body(model_name="../m"), "model_name"),
        (a_body(model_name="/models/../../etc"), "model_name"),
        (a_body(model_name=".."), "model_name"),
        (a_body(model_name="a" * 513), "model_name"),
        (a_body(params=[]), "params"),
        (a_body(params="--seed=1"), "params"),
        (a_body(params=0), "params"),
        (a_body(params={"port": 1}), "params.port"),
        (a_body(params={"a b": 1}), "params.a b"),
        (a_body(params={"x": ["--y"]}), "params.x"),
        (a_body(model_name="~/m"), "model_name"),
        (a_body(model_name="./m"), "model_name"),
        (a_body(env=[]), "env"),
        (a_body(env="A=1"), "env"),
        (a_body(env={"A": 1}), "env.A"),
        (a_body(env={"A": None}), "env.A"),
        (a_body(env={"A": "a\nb"}), "env.A"),
        (a_body(env={"A": "\x00"}), "env.A"),
        (a_body(env={"A": "x" * 4097}), "env.A"),
        (a_body(env={"A=B": "1"}), "env.A=B"),
        (a_body(env={"": "1"}), "env."),
        (a_body(env={f"A{n}": "1" for n in range(65)}), "env"),
        (a_body(timeout="600"), "timeout"),
        (a_body(timeout=1.5), "timeout"),
        (a_body(timeout=True), "timeout"),
        (a_body(timeout=-1), "timeout"),
        (a_body(timeout=10**12), "timeout"),
        (b'{"model_name": "a", "model_name": "b"}', "model_name"),
        (b'{"model_name": "a", "params": {"seed": 1, "seed": 2}}', "seed"),
    ],
)
def test_a_bad_field_is_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        create_request(body)
    assert refused.value.field == field
    assert field in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"model_name=m",
        b"[]",
        b'"m"',
        b"null",
        b"1",
        b"\xff\xfe",
        b'{"model_name": NaN}',
        b'{"model_name": "m", "params": {"x": Infinity}}',
        b'{"model_name": "m", "timeout": ' + b"1" * 5000 + b"}",
        b'{"model_name": "m", "params": ' + b"[" * 100_000 + b"}",
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="body: "):
        create_request(body)


@pytest.mark.parametrize("params", ['{"x": 1e999}', '{"x": [-1e999]}', '{"x": {"y": 1e999}}'])
def test_a_number_that_json_cannot_hold_is_refused(params: str) -> None:
    """Python reads it as infinite and writes it as `Infinity`, which no JSON parser takes."""
    with pytest.raises(InvalidRequest):
        create_request(f'{{"model_name": "m", "params": {params}}}'.encode())


@pytest.mark.parametrize("name", ["org/Model-1.5_b", "/models/m", "m", "a..b/c", "千问", "a b"])
def test_a_plain_model_name_is_let_through(name: str) -> None:
    assert create_request(a_body(model_name=name)).model_name == name


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    _JSON
    | st.fixed_dictionaries(
        {},
        optional={"model_name": _JSON, "params": _JSON, "env": _JSON, "timeout": _JSON, "x": _JSON},
    )
)
def test_any_json_is_read_or_refused(value: Any) -> None:
    with suppress(InvalidRequest):
        create_request(json.dumps(value).encode())


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(InvalidRequest):
        create_request(body)


# arguments


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, 0.0), ("0", 0.0), ("1.5", 1.5), ("3600", 3600.0)]
)
def test_wait(text: str | None, seconds: float) -> None:
    assert wait_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "3600.1", "nan", "inf", "-inf", "1e999", "10s"])
def test_a_wait_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="wait: ") as refused:
        wait_seconds(text)
    assert refused.value.field == "wait"


@pytest.mark.parametrize(("text", "lines"), [(None, 100), ("1", 1), ("5000", 5000), ("007", 7)])
def test_tail(text: str | None, lines: int) -> None:
    assert tail_lines(text) == lines


@pytest.mark.parametrize(
    "text", ["", "0", "5001", "-1", "1.5", "x", "²", "\u0661", " 1", "1" * 5000]
)
def test_a_tail_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="tail: ") as refused:
        tail_lines(text)
    assert refused.value.field == "tail"


def test_no_tail_is_greater_than_the_most_however_it_is_padded() -> None:
    with pytest.raises(InvalidRequest):
        tail_lines("0000000019999999")


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        (None, False),
        ("", False),
        ("0", False),
        ("false", False),
        ("1", True),
        ("true", True),
        ("TRUE", True),
    ],
)
def test_flag(text: str | None, yes: bool) -> None:
    assert flag("all", text) is yes


@pytest.mark.parametrize("text", ["yes", "2", " 1"])
def test_a_flag_that_is_neither_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="all: ") as refused:
        flag("all", text)
    assert refused.value.field == "all"


@pytest.mark.parametrize(
    ("text", "current", "run"),
    [
        (None, 0, 0),
        ("current", 0, 0),
        (None, 7, 7),
        ("current", 7, 7),
        ("previous", 7, 6),
        ("7", 7, 7),
        ("6", 7, 6),
        ("1", 1, 1),
    ],
)
def test_a_run_is_named_or_numbered(text: str | None, current: int, run: int) -> None:
    assert arguments.run_number(text, current) == run


@pytest.mark.parametrize("text", ["", "last", "-1", "+1", "1.0", "٣", "1" * 10, "Previous"])
def test_what_names_no_run_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^run: .* is neither current, previous nor"):
        arguments.run_number(text, 3)


@pytest.mark.parametrize(
    ("text", "current", "said"),
    [
        ("previous", 1, "there are logs of run 1"),
        ("previous", 0, "it has not run yet"),
        ("1", 3, "there are logs of run 2 and run 3"),
        ("4", 3, "there are logs of run 2 and run 3"),
        ("0", 3, "run 0"),
    ],
)
def test_a_run_that_has_no_log_is_not_found(text: str, current: int, said: str) -> None:
    with pytest.raises(NotFound, match=said):
        arguments.run_number(text, current)


A_PLACE = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


@pytest.mark.parametrize("text", [None, "", "0-0", "1700000000000-7", f"{2**64 - 1}-{2**64 - 1}"])
def test_the_last_event_seen_is_a_place_in_a_stream(text: str | None) -> None:
    assert arguments.last_event_id(text, A_PLACE) == (text or "")


@pytest.mark.parametrize("text", ["last week", "1", "-", f"{2**64}-0", f"0-{2**64}", "9" * 21])
def test_what_no_stream_can_hold_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Last-Event-ID: "):
        arguments.last_event_id(text, A_PLACE)


@pytest.mark.parametrize("key", [None, "k", "k" * 255, '"quoted, with a space"', "~!"])
def test_an_idempotency_key_is_taken_as_it_is(key: str | None) -> None:
    assert arguments.idempotency_key(key) == key


@pytest.mark.parametrize("key", ["", " ", "k ", " k", "k" * 256, "k\n", "k\x7f", "é", "a\tb"])
def test_an_idempotency_key_that_cannot_be_told_apart_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Idempotency-Key: must be 1 to 255 printable"):
        arguments.idempotency_key(key)


def test_arguments_that_there_are_not_or_that_stand_twice_are_refused() -> None:
    arguments.only(MultiDict([("dry_run", "1")]), "dry_run", "wait")
    with pytest.raises(
        InvalidRequest, match="unknown argument; there are dry_run, wait"
    ) as refused:
        arguments.only(MultiDict([("dryrun", "1")]), "dry_run", "wait")
    assert refused.value.field == "dryrun"
    with pytest.raises(InvalidRequest, match="wait: given twice"):
        arguments.only(MultiDict([("wait", "1"), ("wait", "2")]), "dry_run", "wait")
