"""What reaches the engine of a request: its path and headers as they were checked, no secrets."""

from __future__ import annotations

import pytest

from tests.integration.conformance import ENGINE_KEY, Case, normal
from tests.integration.raw_engine import answering

refuses_key = answering(
    b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 24\r\n\r\n{"error":"Unauthorized"}'
)

PLAIN = [
    "/v1/models",
    "/v1/models/org/tiny",
    "/v1/a%20b/%C3%A9",
    "/v1/a+b,c=1:2@x!$&'()*~",
    "/v1/...",
    "/v1/.well-known",
    "/v1/x?a=%2F..%2F&b=//&c=\\;%00&&d",
    "/v1/x?",
    "/v1/x/",
]

TWO_READINGS = [
    "/v1/../x", "/..", "/v1/..", "/v1/%2e%2e/x", "/v1/.%2E/x", "/v1/./x", "/v1/%2e", "/v1/.",
    "//v1/x", "/v1//x", "/v1/x//", "/v1/%2fx", "/v1/%2Fx", "/v1/..%2fx",
    "/v1/%5cx", "/v1/\\x", "/v1/\\..\\x", "/v1/%00", "/v1/x%00.json",
    "/v1/x%2", "/v1/%zz", "/v1/%", "/v1/%252e%252e/x", "/v1/%25%32%66",
    "/v1/..;/x", "/v1/x;y", "/v1/x%3by", "/v1/x#y", "/v1/x?a#b",
]  # fmt: skip

NO_TARGET = [
    b"/v1/\x00",
    b"/v1/\x01",
    b"/v1/\x7f",
    b"/v1/\xc3\xa9",
    b"/v1/x y",
    b"/v1/\tx",
    b"/v1/x\r",
]


def test_a_plain_request_reaches_the_engine_and_its_answer_the_caller(case: Case) -> None:
    answer = case.ask("POST", "", "Content-Type: application/json", body=b'{"a":1}')
    assert (answer.status, answer.body, answer.whole) == (200, b'{"ok":true}', True)
    got = case.last()
    assert (got.method, got.target, got.body) == ("POST", "/v1/completions", b'{"a":1}')


@pytest.mark.parametrize("path", PLAIN)
def test_the_path_that_was_checked_is_sent(case: Case, path: str) -> None:
    assert case.ask("GET", f"/proxy/{case.instance_id}{path}").status == 200
    assert case.last().target == path


@pytest.mark.parametrize("path", TWO_READINGS)
def test_a_path_with_two_readings_is_400_and_goes_nowhere(case: Case, path: str) -> None:
    answer = case.ask("GET", f"/proxy/{case.instance_id}{path}")
    assert (answer.status, answer.error["param"]) == (400, "path")
    assert case.engine.raw == b""


@pytest.mark.parametrize("path", NO_TARGET)
def test_a_target_that_http_forbids_is_400_and_goes_nowhere(case: Case, path: bytes) -> None:
    caller = case.caller()
    caller.send(case.head("GET", "").replace(b"/v1/completions", path))
    answer = caller.answer()
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert case.engine.raw == b""


@pytest.mark.parametrize("line", ["OPTIONS *", "CONNECT engine:80", "GET proxy/x/v1", "GET ../x"])
def test_other_forms_of_a_target_go_nowhere(case: Case, line: str) -> None:
    caller = case.caller()
    caller.send(f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert caller.answer().error["type"] == "invalid_request_error"
    assert case.engine.raw == b""


def test_an_absolute_target_is_read_as_its_path(case: Case) -> None:
    caller = case.caller()
    caller.send(f"GET http://localhost{case.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert caller.answer().status == 200
    assert case.last().target == "/v1/completions"
    assert case.last().header("host") == f"127.0.0.1:{case.engine.port}"


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "[::1]:9", "LOCALHOST"])
def test_host_is_always_the_engines(case: Case, host: str) -> None:
    caller = case.caller()
    caller.send(f"GET {case.path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert caller.answer().status == 200
    assert case.last().header("host") == f"127.0.0.1:{case.engine.port}"


@pytest.mark.parametrize(
    "hosts", [[], ["localhost", "localhost"], ["localhost", "evil"], ["a/v1?x"]]
)
def test_an_odd_host_goes_nowhere(case: Case, hosts: list[str]) -> None:
    caller = case.caller()
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    caller.send(f"GET {case.path} HTTP/1.1\r\n{lines}\r\n".encode())
    assert caller.answer().status in (400, 401, 403)
    assert case.engine.raw == b""


def test_the_callers_secrets_stay_here_and_the_engines_key_goes_there(case: Case) -> None:
    secrets = [
        "Authorization: Bearer s3cret",
        "Cookie: a=s3cret",
        "x-api-key: s3cret",
        "api-key: s3cret",
    ]
    assert case.ask("GET", "", *secrets).status == 200
    assert case.last().header("authorization") == f"Bearer {ENGINE_KEY}"
    assert b"s3cret" not in case.engine.raw


@pytest.mark.parametrize("name", ["X_Api_Key", "Content_Length", "Transfer_Encoding", "X_Custom"])
def test_a_name_that_some_servers_read_as_another_is_dropped(case: Case, name: str) -> None:
    assert case.ask("GET", "", f"{name}: 7").status == 200
    assert name.lower() not in normal(case.last().headers)


def test_headers_of_one_connection_stay_on_it(case: Case) -> None:
    hop = [
        "Connection: keep-alive, X-Hop , x-other", "X-Hop: 1", "X-Other: 1", "Keep-Alive: 5",
        "Proxy-Authorization: x", "Proxy-Connection: keep-alive", "TE: trailers", "Trailer: X-T",
        "Upgrade: h2c",
    ]  # fmt: skip
    assert case.ask("GET", "", *hop, "X-Kept: 1").status == 200
    got = normal(case.last().headers)
    assert got.keys() & {"x-kept"}
    assert not got.keys() & {
        "x-hop", "x-other", "keep-alive", "proxy-authorization", "proxy-connection", "te",
        "trailer", "upgrade",
    }  # fmt: skip
    assert got.get("connection", "keep-alive").lower() in ("keep-alive", "close")


def test_repeated_and_empty_headers_keep_their_values(case: Case) -> None:
    assert case.ask("GET", "", "X-A: 1", "X-A:  2 ", "X-B:", "X-C: \xe9\tx").status == 200
    got = normal(case.last().headers)
    assert (got["x-a"].replace(" ", ""), got["x-b"], got["x-c"]) == ("1,2", "", "\xe9\tx")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
def test_any_method_reaches_the_engine(case: Case, method: str) -> None:
    assert case.ask(method).status == 200
    assert case.last().method == method


def test_an_engine_is_made_to_show_that_it_is_ours_where_its_key_is_not_asked(case: Case) -> None:
    assert case.ask("POST", f"/proxy/{case.instance_id}/tokenize", body=b"{}").status == 200
    targets = [(got.method, got.target) for got in case.engine.received]
    assert targets == [("GET", "/v1/models"), ("POST", "/tokenize")]
    assert case.engine.connections == 1


def test_another_engine_gets_nothing_where_its_key_is_not_asked(case: Case) -> None:
    case.engine.script = refuses_key
    answer = case.ask("POST", f"/proxy/{case.instance_id}/tokenize", body=b"{}")
    assert (answer.status, answer.error["code"]) == (503, "instance_not_ready")
    assert [got.target for got in case.engine.received] == ["/v1/models"]


def test_another_engine_at_the_address_is_503_not_its_words(case: Case) -> None:
    case.engine.script = refuses_key
    answer = case.ask("POST", "", body=b"{}")
    assert (answer.status, answer.error["code"]) == (503, "instance_not_ready")
    assert b"Unauthorized" not in answer.body
