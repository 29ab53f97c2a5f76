"""Errors as HTTP: every one has a status, all have one shape."""

import inspect
import json
import logging
from collections.abc import Iterator

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient

from shared import errors
from shared.errors import (
    FleetError,
    InstanceNotReady,
    InvalidRequest,
    NoCapacity,
    RecordUnreadable,
)
from web.http.errors import add_error_handlers, error_body, status_of

START_UP = (FleetError, errors.SettingsError, errors.CatalogueFault)  # no request raises these
ALL = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, FleetError) and cls not in START_UP
]


def an_error(cls: type[FleetError]) -> FleetError:
    """Return an error of this class."""
    if issubclass(cls, InstanceNotReady):
        return cls("instance i1 is starting", retry_after_s=5)
    if cls is RecordUnreadable:
        return RecordUnreadable("i1", why="status: 'new'", key="fleet:instance:i1")
    return cls("it is so")


@pytest.mark.parametrize("cls", ALL)
def test_every_error_has_a_status(cls: type[FleetError]) -> None:
    assert status_of(an_error(cls)) != 500


@pytest.mark.parametrize(
    ("cls", "status"),
    [
        (errors.InvalidRequest, 400),
        (errors.KeyReused, 422),
        (errors.TooManyFollowers, 503),
        (errors.Unauthorized, 401),
        (errors.Forbidden, 403),
        (errors.NotFound, 404),
        (errors.Conflict, 409),
        (errors.NoCapacity, 503),
        (errors.InstanceNotReady, 503),
        (errors.ModelUnavailable, 503),
        (errors.TooManyWaiting, 429),
        (errors.EngineUnreachable, 502),
        (errors.EngineTimeout, 504),
        (errors.StoreUnavailable, 503),
        (errors.RecordUnreadable, 503),
    ],
)
def test_the_statuses(cls: type[FleetError], status: int) -> None:
    assert status_of(an_error(cls)) == status


def test_an_error_that_nobody_mapped_has_the_status_of_its_group() -> None:
    class EngineMelted(errors.EngineError):
        """A kind that the table does not know."""

    assert status_of(EngineMelted("hot")) == 502


@pytest.mark.parametrize("error", [FleetError("x"), errors.SettingsError(["x"])])
def test_what_no_request_can_raise_is_a_fault_of_ours(error: FleetError) -> None:
    assert status_of(error) == 500


def test_settings_errors_list_every_fault() -> None:
    assert str(errors.SettingsError(["a", "b"])) == "a\nb"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "invalid_request_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_a_body_has_openais_shape(status: int, kind: str) -> None:
    body = error_body(status, "it is so", code="so", field="f")
    assert json.loads(body) == {
        "error": {"message": "it is so", "type": kind, "param": "f", "code": "so"}
    }


def test_a_body_ends_in_a_newline() -> None:
    assert error_body(400, "m", code="c").endswith(b"}\n")


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    add_error_handlers(app)
    return app


@pytest.fixture
def client(app: Flask) -> Iterator[FlaskClient]:
    with app.test_client() as client:
        yield client


def raising(app: Flask, error: Exception) -> None:
    """Have GET /it raise `error`."""

    @app.get("/it")
    def it() -> str:
        raise error


@pytest.mark.parametrize("cls", ALL)
def test_every_error_is_answered_in_the_one_shape(
    cls: type[FleetError], app: Flask, client: FlaskClient
) -> None:
    raising(app, an_error(cls))
    response = client.get("/it")
    assert response.content_type == "application/json"
    assert response.get_json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_refused_field_is_named_in_the_answer(app: Flask, client: FlaskClient) -> None:
    raising(app, InvalidRequest("params.port: no", field="params.port"))
    assert client.get("/it").get_json()["error"] == {
        "message": "params.port: no",
        "type": "invalid_request_error",
        "param": "params.port",
        "code": "invalid_request",
    }


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (NoCapacity("full"), "10"),
        (errors.StoreUnavailable("away"), "2"),
        (InstanceNotReady("loads", retry_after_s=7), "7"),
        (InstanceNotReady("failed", retry_after_s=None), None),
        (errors.NotFound("none"), None),
    ],
)
def test_an_answer_says_when_to_ask_again(
    error: FleetError, seconds: str | None, app: Flask, client: FlaskClient
) -> None:
    raising(app, error)
    assert client.get("/it").headers.get("Retry-After") == seconds


def test_an_unknown_path_is_answered_in_the_one_shape(client: FlaskClient) -> None:
    response = client.get("/none")
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "not_found")


def test_a_wrong_method_says_which_are_right(app: Flask, client: FlaskClient) -> None:
    raising(app, NoCapacity("x"))
    response = client.post("/it")
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]
    assert response.get_json()["error"]["code"] == "method_not_allowed"


def test_a_too_large_body_is_answered_in_the_one_shape(app: Flask, client: FlaskClient) -> None:
    @app.get("/it")
    def it() -> str:
        abort(413)

    response = client.get("/it")
    assert (response.status_code, response.get_json()["error"]["type"]) == (
        413,
        "invalid_request_error",
    )


def test_a_bug_is_logged_and_tells_the_caller_nothing(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    raising(app, RuntimeError("the secret is hush"))
    with caplog.at_level(logging.ERROR, logger="web.http.errors"):
        response = client.get("/it")
    assert response.status_code == 500
    assert "hush" not in response.text
    assert "hush" in caplog.text
