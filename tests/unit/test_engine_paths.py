"""Which paths of an engine pass, and that no route of the installed vLLM is unclassified."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.settings import ROOT
from web.access.engine_paths import ADMIN, CLOSED, INFERENCE, INFERENCE_BY_ID, Access, EnginePaths

PATHS = EnginePaths(())
ASK = ("GET", "HEAD", "OPTIONS", "POST")
CHANGE = ("PUT", "PATCH", "DELETE", "PROPFIND", "BREW", "get", "")


@pytest.mark.parametrize("path", [*sorted(INFERENCE), "/v1/responses/resp_1-a.b"])
def test_inference_paths_are_for_any_key_unless_the_method_could_change_something(
    path: str,
) -> None:
    assert {PATHS.access(path, method) for method in ASK} == {Access.INFERENCE}
    assert {PATHS.access(path, method) for method in CHANGE} == {Access.ADMIN}


@pytest.mark.parametrize("path", sorted(ADMIN))
def test_how_an_engine_is_can_be_read_by_admins(path: str) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        assert PATHS.access(path, method) is Access.ADMIN
    for method in ("POST", *CHANGE):
        assert PATHS.access(path, method) is Access.CLOSED


@pytest.mark.parametrize(
    "path",
    [
        *sorted(CLOSED),
        "",
        "/",
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1/models/org/x",
        "/V1/models",
        "/v1/model%73",
        "/v1/models?x",
        "/v1/models\n",
        "//v1/models",
        "/v1/responses/",
        "/v1/responses/.",
        "/v1/responses/..",
        "/v1/responses/a/b",
        "/v1/responses/a%2fb",
        "/v1/responses/a%72",
        "/v1/responses/a/cancel/b",
        "/v1/responses/a\n",
        "/metrics/",
        "/metricsx",
        "/anything",
    ],
)
def test_everything_else_is_closed(path: str) -> None:
    for method in ASK + CHANGE:
        assert PATHS.access(path, method) is Access.CLOSED


@given(st.text(max_size=40), st.sampled_from(ASK + CHANGE))
def test_what_nobody_listed_is_closed(path: str, method: str) -> None:
    assert PATHS.access(f"/{path}", method) is Access.CLOSED or f"/{path}" in _listed()


def test_no_path_is_on_two_lists() -> None:
    assert len(INFERENCE | ADMIN | CLOSED) == len(INFERENCE) + len(ADMIN) + len(CLOSED)


def test_named_paths_are_open_to_admins_by_any_method() -> None:
    paths = EnginePaths(("/sleep", "/inference/*"))
    for method in ASK + CHANGE:
        for path in ("/sleep", "/inference/v1/generate", "/inference/"):
            assert paths.access(path, method) is Access.ADMIN
        for path in ("/sleep/", "/sleepy", "/inference", "/inferences/x", "/wake_up"):
            assert paths.access(path, method) is Access.CLOSED


def test_naming_a_path_opens_none_to_inference_keys_and_closes_none() -> None:
    paths = EnginePaths(("/*",))
    assert paths.access("/collective_rpc", "POST") is Access.ADMIN
    assert paths.access("/metrics", "DELETE") is Access.ADMIN
    assert paths.access("/v1/models", "GET") is Access.INFERENCE


# the vLLM that is installed here

VLLM = ROOT / ".engines/default/lib"
VERBS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
OTHERS = {"api_route", "route", "websocket", "websocket_route", "mount"}
ADDERS = {"add_api_route", "add_route", "add_api_websocket_route", "add_websocket_route"}
NOT_LITERAL = {
    # adds again, as refusals, what the render, derender and token routers declare
    "route.path",
    # /docs/oauth2-redirect
    "app.swagger_ui_oauth2_redirect_url",
}


def declared(package: Path) -> Iterator[tuple[str, str]]:
    """Yield method and path of each route that the HTTP server's code declares."""
    for source in sorted((package / "entrypoints").rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and (found := _route(node)):
                yield found


def _route(call: ast.Call) -> tuple[str, str] | None:
    if isinstance(call.func, ast.Name) and call.func.id in ("Mount", "Route", "WebSocketRoute"):
        method = call.func.id
    elif isinstance(call.func, ast.Attribute) and call.func.attr in VERBS | OTHERS | ADDERS:
        receiver = ast.unparse(call.func.value)
        if "app" not in receiver and "router" not in receiver:
            return None  # dict.get and the like
        method = call.func.attr
    else:
        return None
    named = (keyword.value for keyword in call.keywords if keyword.arg == "path")
    path = next(iter(call.args), None) or next(named, None)
    if isinstance(path, ast.Constant) and isinstance(path.value, str):
        return method.upper(), path.value
    return None if path is None or ast.unparse(path) in NOT_LITERAL else (method, ast.unparse(path))


@pytest.fixture(scope="module")
def routes() -> set[tuple[str, str]]:
    package = next(VLLM.glob("python3.*/site-packages/vllm"), None)
    if package is None:
        pytest.skip("no vLLM in .engines/default: its routes cannot be read (make engine)")
    return set(declared(package))


def test_every_route_of_the_installed_vllm_is_classified(routes: set[tuple[str, str]]) -> None:
    unknown = {(method, path) for method, path in routes if _plain(path) not in _listed()}
    assert not unknown, (
        "a new route of vLLM: put it on one of the lists of web/access/engine_paths.py"
    )


def test_the_routes_are_really_found(routes: set[tuple[str, str]]) -> None:
    assert {
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/responses/{response_id}"),
        ("WEBSOCKET", "/v1/realtime"),
        ("MOUNT", "/metrics"),
        ("POST", "/collective_rpc"),
        ("ADD_API_ROUTE", "/abort_requests"),
    } <= routes
    assert len(routes) > 70


def test_inference_keys_can_ask_all_that_the_installed_vllm_has_for_them(
    routes: set[tuple[str, str]],
) -> None:
    for method, path in routes:
        if _plain(path) in INFERENCE | set(INFERENCE_BY_ID):
            sent = "GET" if method == "WEBSOCKET" else method
            asked = path.replace("{response_id}", "resp_1")
            assert PATHS.access(asked, sent) is Access.INFERENCE


def _plain(path: str) -> str:
    return path.replace("{response_id}", "{id}")


def _listed() -> set[str]:
    return set(INFERENCE | ADMIN | CLOSED).union(INFERENCE_BY_ID)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_what_could_show_the_engines_key_is_for_nobody(method: str) -> None:
    paths = EnginePaths(("/*",))
    assert paths.access("/v1/models", method) is Access.CLOSED
