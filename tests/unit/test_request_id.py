"""X-Request-Id: the caller's if it is fit, else ours; on every answer and in the log."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from flask import Flask, abort, g
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Conflict, Unauthorized
from shared.settings import ROOT
from web.http.errors import add_error_handlers
from web.http.request_id import RequestIdFilter, add_request_ids, request_id

NEW = re.compile(rb"[0-9a-f]{32}")


@pytest.mark.parametrize("fit", [b"a", b"0", b"req_1.2-X", b"." * 128])
def test_a_fit_id_is_kept(fit: bytes) -> None:
    assert request_id(fit) == fit


@pytest.mark.parametrize(
    "unfit",
    [None, b"", b"a" * 129, b"a b", b"a\r\nX: y", b"a\n", b"\xc3\xa9", b"a,b", b"{}", b"\0"],
)
def test_anything_else_is_replaced(unfit: bytes | None) -> None:
    assert NEW.fullmatch(request_id(unfit))


@given(st.binary(max_size=200))
def test_every_id_is_safe_to_write_down(sent: bytes) -> None:
    assert re.fullmatch(rb"[A-Za-z0-9._-]{1,128}", request_id(sent))


def test_new_ids_differ() -> None:
    assert len({request_id(None) for _ in range(1000)}) == 1000


def test_processes_that_were_forked_make_ids_of_their_own() -> None:
    code = """
import os
from web.http.request_id import request_id
request_id(None)
for _ in range(2):
    if not os.fork():
        break
os.write(1, request_id(None) + b" ")
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True
    ).stdout  # read until the last of the three has ended
    assert len(set(printed.split())) == 3


@pytest.fixture
def client() -> FlaskClient:
    app = Flask("test")
    add_request_ids(app)
    add_error_handlers(app)

    @app.before_request
    def refuse() -> None:
        if g.request_id == "refuse-me":
            raise Unauthorized("not you")

    @app.get("/ok")
    def ok() -> str:
        return str(g.request_id)

    @app.get("/<what>")
    def fail(what: str) -> str:
        if what == "conflict":
            raise Conflict("no")
        if what == "bug":
            raise RuntimeError("oh")
        abort(int(what))

    return app.test_client()


@pytest.mark.parametrize("path", ["/ok", "/conflict", "/bug", "/418", "/a/b"])
def test_every_answer_has_the_callers_id(client: FlaskClient, path: str) -> None:
    answer = client.get(path, headers={"X-Request-Id": "mine-1"})
    assert answer.headers.getlist("X-Request-Id") == ["mine-1"]


@pytest.mark.parametrize("path", ["/ok", "/conflict", "/bug", "/418", "/a/b"])
def test_every_answer_has_an_id_of_ours_where_the_caller_has_none(
    client: FlaskClient, path: str
) -> None:
    assert NEW.fullmatch(client.get(path).headers["X-Request-Id"].encode())


def test_a_refusal_by_auth_has_the_id(client: FlaskClient) -> None:
    answer = client.get("/ok", headers={"X-Request-Id": "refuse-me"})
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (401, "refuse-me")


def test_the_view_knows_the_id(client: FlaskClient) -> None:
    assert client.get("/ok", headers={"X-Request-Id": "mine-1"}).text == "mine-1"


@pytest.fixture
def filtered(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    wanted = RequestIdFilter()
    caplog.handler.addFilter(wanted)
    yield caplog
    caplog.handler.removeFilter(wanted)


def test_the_log_of_an_error_names_its_request(
    client: FlaskClient, filtered: pytest.LogCaptureFixture
) -> None:
    client.get("/bug", headers={"X-Request-Id": "mine-1"})
    assert [vars(record)["request"] for record in filtered.records] == [" [request mine-1]"]


def test_other_lines_name_none(filtered: pytest.LogCaptureFixture) -> None:
    logging.getLogger("routing").warning("a line of a thread")
    assert [vars(record)["request"] for record in filtered.records] == [""]
