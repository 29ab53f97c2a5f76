"""Who may ask: programs on this machine, and no page of any site through them."""

import pytest
from werkzeug.datastructures import Headers

from shared.errors import Unauthorized
from web.auth import check_local

OWN = frozenset({"localhost", "gpu-1"})


def check(peer: str | None = "127.0.0.1", **headers: str) -> None:
    """Check a request with these headers; `_` stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    check_local(peer, Headers({"Host": "localhost:5000"} | named), OWN)


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
    with pytest.raises(Unauthorized, match="ssh -L 5000:localhost:5000"):
        check("10.0.0.7")


@pytest.mark.parametrize(
    "name", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"]
)
@pytest.mark.parametrize("value", ["127.0.0.1", "for=127.0.0.1", ""])
def test_a_forwarded_request_comes_from_elsewhere(name: str, value: str) -> None:
    with pytest.raises(Unauthorized, match=f"request with the header {name}"):
        check_local("127.0.0.1", Headers([("Host", "localhost"), (name.lower(), value)]), OWN)


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
        check_local("127.0.0.1", Headers(), OWN)


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:5000", "http://127.0.0.1:3000", "http://[::1]:5000", "http://GPU-1:5000"],
)
def test_a_page_of_this_machine_may_ask(origin: str) -> None:
    check(Origin=origin)


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
    ],
)
def test_a_page_from_elsewhere_may_not_ask(origin: str) -> None:
    with pytest.raises(Unauthorized, match="request by a page"):
        check(Origin=origin)


def test_a_cross_site_request_of_a_browser_is_refused() -> None:
    with pytest.raises(Unauthorized, match="a page of another site"):
        check(Sec_Fetch_Site="cross-site")


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
def test_a_browser_that_asks_for_itself_is_let_in(site: str) -> None:
    check(Sec_Fetch_Site=site)


@pytest.mark.parametrize("name", ["X-Forwarded-Proto", "x-forwarded-port", "CF-Connecting-IP"])
def test_any_header_of_a_forwarder_is_refused(name: str) -> None:
    headers = Headers({"Host": "localhost", name: "x"})
    with pytest.raises(Unauthorized, match="(?i)" + name):
        check_local("127.0.0.1", headers, frozenset({"localhost"}))
