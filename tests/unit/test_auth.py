"""Who may ask: programs on this machine and no page through them; what a key may do."""

import pytest
from werkzeug.datastructures import Headers

from shared.domain.key import Scope
from shared.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from tests.builders import an_instance
from web.access.auth import LOCAL, Principal, authorize, check_local, needs_admin, presented_token
from web.access.engine_paths import Access

OWN = frozenset({"localhost", "gpu-1"})


def check(peer: str | None = "127.0.0.1", **headers: str) -> None:
    """Check a request with these headers; `_` stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    check_headers(Headers({"Host": "localhost:5000"} | named), peer)


def check_headers(headers: Headers, peer: str | None = "127.0.0.1") -> None:
    """Check a request with exactly these headers."""
    check_local(peer, headers, OWN, port=5077, scheme="http")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1"])
def test_a_program_on_this_machine_may_ask(peer: str) -> None:
    check(peer)


@pytest.mark.parametrize(
    "peer", ["10.0.0.7", "192.168.1.1", "0.0.0.0", "fe80::1", "2001:db8::1", "localhost", "", None]
)
def test_a_remote_peer_may_not_ask(peer: str | None) -> None:
    with pytest.raises(Unauthorized, match="request from"):
        check(peer)


def test_the_refusal_says_what_to_do() -> None:
    with pytest.raises(Unauthorized, match="ssh -L 5077:localhost:5077"):
        check("10.0.0.7")


@pytest.mark.parametrize(
    "name", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"]
)
@pytest.mark.parametrize("value", ["127.0.0.1", "for=127.0.0.1", ""])
def test_a_forwarded_request_comes_from_elsewhere(name: str, value: str) -> None:
    with pytest.raises(Unauthorized, match=f"(?i)request with the header {name}"):
        check_headers(Headers([("Host", "localhost"), (name.lower(), value)]))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:5000",
        "127.0.0.1",
        "127.0.0.1:5000",
        "127.1.2.3:5000",
        "[::1]",
        "[::1]:5000",
        "gpu-1:5000",
        "GPU-1",
    ],
)
def test_a_name_of_this_machine_is_a_good_host(host: str) -> None:
    check(Host=host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:5000",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "rebind.evil.example:5000",
        "10.0.0.7",
        "0.0.0.0:5000",
        "[::]:5000",
        "[2001:db8::1]:5000",
        "a/v1?x",
        "localhost/v1?x",
        "localhost?x",
        "localhost#x",
        "localhost?",
        "localhost#",
        "local\thost",
        "localhost\\@evil.example",
        "evil.example@localhost",
        "@localhost",
        "localhost@evil.example",
        "localhost:x",
        "localhost:99999",
        "localhost, evil.example",
        "localhost evil.example",
        "localhost:5000:6000",
        "[::1",
        "[::1]evil.example",
        "2130706433",
        "0x7f000001",
        "127.1",
    ],
)
def test_a_host_that_is_no_name_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(Unauthorized, match="not a name of this machine"):
        check(Host=host)


def test_a_request_without_a_host_is_refused() -> None:
    with pytest.raises(Unauthorized, match="not a name of this machine"):
        check_headers(Headers())


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "GPU-1"])
def test_a_page_of_our_own_may_ask(host: str) -> None:
    check(Host=host, Origin=f"http://{host}".lower())


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "file://",
        "localhost",
        "chrome-extension://abc",
        "http://[::1",
        "http://localhost:3000",
        "http://localhost",
        "https://localhost:5000",
        "http://127.0.0.1:5000",
        "http://gpu-1:5000",
        "http://localhost:5000/",
        "http://localhost:50000",
    ],
)
def test_a_page_from_elsewhere_may_not_ask(origin: str) -> None:
    with pytest.raises(Unauthorized, match="request by a page"):
        check(Origin=origin)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_browser_that_asks_for_another_page_is_refused(site: str) -> None:
    with pytest.raises(Unauthorized, match="a page of another site"):
        check(Sec_Fetch_Site=site)


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_a_browser_that_asks_for_itself_is_let_in(site: str) -> None:
    check(Sec_Fetch_Site=site)


@pytest.mark.parametrize("name", ["X-Forwarded-Proto", "x-forwarded-port", "CF-Connecting-IP"])
def test_any_header_of_a_forwarder_is_refused(name: str) -> None:
    headers = Headers({"Host": "localhost", name: "x"})
    with pytest.raises(Unauthorized, match="(?i)" + name):
        check_headers(headers)


# which key a request shows


@pytest.mark.parametrize(
    ("authorization", "api_key", "expected"),
    [
        (None, None, None),
        (b"", b"", None),
        (b"Bearer k", None, b"k"),
        (b"bearer  k ", None, b"k"),
        (b"BEARER \xff\x00", None, b"\xff\x00"),
        (None, b" k ", b"k"),
        (b"Bearer k", b"k", b"k"),
        (b"Basic k", b"other", b"other"),
        (b"Basic k", None, None),
        (b"Bearer", None, None),
        (b"Bearer ", None, None),
        (b"Bearerk", None, None),
        (b"k", None, None),
        (b"Bearer a,Bearer b", None, b"a,Bearer b"),
    ],
)
def test_the_key_that_a_request_shows(
    authorization: bytes | None, api_key: bytes | None, expected: bytes | None
) -> None:
    assert presented_token(authorization, api_key) == expected


def test_two_keys_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="another key than in Authorization"):
        presented_token(b"Bearer a", b"b")


# what a principal may do


def an_inference_principal(*models: str) -> Principal:
    """Return somebody with an inference key for these models."""
    return Principal("ann", "aaaaaaaa", Scope.INFERENCE, models)


@pytest.mark.parametrize(
    ("models", "params", "expected"),
    [
        ((), {}, True),
        (("org/tiny",), {}, True),
        (("org/*",), {}, True),
        (("other/*",), {}, False),
        (("small",), {"served_model_name": "small"}, True),
        (("small",), {"served_model_name": ["x", "small"]}, True),
        (("org/tiny",), {"served_model_name": "small"}, True),
    ],
)
def test_whose_models_an_instance_is_of(
    models: tuple[str, ...], params: dict[str, object], *, expected: bool
) -> None:
    instance = an_instance(params=params)
    assert an_inference_principal(*models).may_use(instance) is expected
    assert LOCAL.may_use(instance)


def test_an_instance_of_another_model_is_said_not_to_be_there_whatever_the_path() -> None:
    for access in Access:
        with pytest.raises(NotFound) as refused:
            authorize(an_inference_principal("other"), "tiny-aaaaaaaa", an_instance(), access, "/x")
        assert str(refused.value) == "no instance tiny-aaaaaaaa"


def test_of_an_instance_that_nobody_has_heard_of_only_who_may_use_all_hears_more() -> None:
    with pytest.raises(NotFound):
        authorize(an_inference_principal("org/*"), "x", None, Access.INFERENCE, "/v1/models")
    authorize(an_inference_principal(), "x", None, Access.INFERENCE, "/v1/models")


def test_inference_keys_reach_inference_paths_and_admins_the_others_too() -> None:
    somebody, instance = an_inference_principal(), an_instance()
    authorize(somebody, "tiny-aaaaaaaa", instance, Access.INFERENCE, "/v1/models")
    authorize(LOCAL, "tiny-aaaaaaaa", instance, Access.INFERENCE, "/v1/models")
    authorize(LOCAL, "tiny-aaaaaaaa", instance, Access.ADMIN, "/metrics")
    with pytest.raises(Forbidden, match="path /metrics: this request needs an admin key"):
        authorize(somebody, "tiny-aaaaaaaa", instance, Access.ADMIN, "/metrics")


@pytest.mark.parametrize("principal", [LOCAL, an_inference_principal()])
def test_a_closed_path_is_closed_to_all_and_says_what_opens_it(principal: Principal) -> None:
    with pytest.raises(Forbidden, match=r"path /sleep: .* PROXY_ALLOW_PATHS"):
        authorize(principal, "tiny-aaaaaaaa", an_instance(), Access.CLOSED, "/sleep")


def test_the_control_api_is_for_admins() -> None:
    needs_admin(LOCAL)
    with pytest.raises(Forbidden, match="the control API needs an admin key"):
        needs_admin(an_inference_principal())
