"""API keys over real processes: one Redis, two web tiers, the command line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import pytest
import redis
import requests

from shared.settings import ROOT
from tests.builders import a_key
from tests.demo.waiting import until
from tests.integration.harness import START_S, LocalFleet
from tests.integration.sse import messages
from tests.redis_server import running_redis

EFFECTIVE_S = 5.0  # what README.md promises
CURL = "command curl" if shutil.which("curl") else f"{sys.executable} -m tests.e2e.curl"


class CommandLine:
    """`flask --app web keys ...` with some settings."""

    def __init__(self, **env: str) -> None:
        self._env = env

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "flask"), "--app", "web", "keys", *words],
            cwd=ROOT,
            env={**os.environ, **self._env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def created(self, *words: str) -> str:
        """Make a key; return it."""
        done = self("create", *words)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"vfm_[a-z2-7]{8}_[A-Za-z0-9_-]{43}\n", done.stdout)
        return done.stdout.strip()


class TwoWebs:
    """Two web tiers on one Redis, and the command line."""

    def __init__(self, fleet: LocalFleet) -> None:
        self.fleet = fleet
        self.keys = CommandLine(REDIS_URL=fleet.redis_url)
        self.bases: list[str] = []
        for _ in range(2):
            fleet.start_web()
            self.bases.append(fleet.base)

    def statuses(self, token: str | None, path: str = "/instances") -> list[int]:
        """Return what each web tier answers to whoever has `token`."""
        headers = {} if token is None else {"x-api-key": token}
        return [
            requests.get(f"{base}{path}", headers=headers, timeout=10).status_code
            for base in self.bases
        ]

    def soon(self, so: Callable[[], object]) -> float:
        """Wait for something to be so in the promised time; return the seconds it took."""
        began = monotonic()
        assert until(so, EFFECTIVE_S)
        return monotonic() - began


def is_said(text: str, log: Path) -> bool:
    """Return whether a log says that, soon."""
    return until(lambda: text in log.read_text(), EFFECTIVE_S)


def id_of(token: str) -> str:
    """Return the id in a key."""
    return token.split("_")[1]


@pytest.fixture
def webs(own_fleet: LocalFleet) -> TwoWebs:
    return TwoWebs(own_fleet)


def test_a_key_is_good_and_then_revoked_everywhere_within_five_seconds(webs: TwoWebs) -> None:
    assert webs.statuses(None) == [200, 200]
    admin = webs.keys.created("ops", "--scope", "admin")
    made_s = webs.soon(lambda: webs.statuses(admin) == [200, 200])
    closed_s = webs.soon(lambda: webs.statuses(None) == [401, 401])

    assert webs.keys("revoke", id_of(admin)).returncode == 0
    revoked_s = webs.soon(lambda: webs.statuses(admin) == [401, 401])
    assert webs.statuses(None) == [401, 401]  # for good: a key was made once
    print(f"made {made_s:.2f} s, closed {closed_s:.2f} s, revoked {revoked_s:.2f} s")  # noqa: T201


def test_a_lost_notification_costs_five_seconds_at_most(webs: TwoWebs) -> None:
    admin = webs.keys.created("ops", "--scope", "admin")
    webs.soon(lambda: webs.statuses(admin) == [200, 200])
    with redis.Redis.from_url(webs.fleet.redis_url) as client:  # the store would tell
        client.hset(f"fleet:api-key:{id_of(admin)}", "revoked_at", "1.0")
    webs.soon(lambda: webs.statuses(admin) == [401, 401])


def test_a_record_that_cannot_be_read_keeps_no_other_key_from_being_revoked(
    webs: TwoWebs,
) -> None:
    admin = webs.keys.created("ops", "--scope", "admin")
    webs.soon(lambda: webs.statuses(admin) == [200, 200])
    with redis.Redis.from_url(webs.fleet.redis_url) as client:
        client.sadd("fleet:api-keys", "aaaaaaaa", "bbbbbbbb")  # the hash of the second is gone
        scope = {"name": "x", "scope": "of-a-newer-version", "digest": "00", "models": "[]"}
        client.hset("fleet:api-key:aaaaaaaa", mapping=scope)
    listed = webs.keys("list").stdout
    assert (
        len(re.findall(r"^(?:aaaaaaaa|bbbbbbbb)  \(unreadable\) .* revoked$", listed, re.MULTILINE))
        == 2
    )
    assert (webs.keys("rotate", "aaaaaaaa").returncode, webs.statuses(admin)) == (1, [200, 200])
    assert webs.keys("revoke", id_of(admin)).returncode == 0
    webs.soon(lambda: webs.statuses(admin) == [401, 401])


@pytest.mark.parametrize("command", ["revoke", "rotate"])
def test_a_whole_key_instead_of_its_id_is_not_repeated(own_fleet: LocalFleet, command: str) -> None:
    keys = CommandLine(REDIS_URL=own_fleet.redis_url)
    token = keys.created("ops", "--scope", "admin")
    done = keys(command, token)
    assert done.returncode == 2
    assert f"its id is {id_of(token)}" in done.stderr
    assert token not in done.stderr


def test_a_rotated_key_works_until_the_overlap_ends(webs: TwoWebs) -> None:
    old = webs.keys.created("ops", "--scope", "admin")
    rotated = webs.keys("rotate", id_of(old), "--overlap", "4s")
    assert rotated.returncode == 0, rotated.stderr
    new = rotated.stdout.strip()
    webs.soon(lambda: webs.statuses(new) == [200, 200])
    assert webs.statuses(old) == [200, 200]
    assert until(lambda: webs.statuses(old) == [401, 401], 4 + EFFECTIVE_S)
    assert webs.statuses(new) == [200, 200]
    again = webs.keys("rotate", id_of(old))
    assert (again.returncode, again.stdout) == (1, "")
    assert f"was rotated already, to {id_of(new)}" in again.stderr


def test_known_keys_work_without_redis_and_a_new_process_answers_nobody(webs: TwoWebs) -> None:
    admin = webs.keys.created("ops", "--scope", "admin")
    webs.soon(lambda: webs.statuses(admin, "/no/such") == [404, 404])
    os.kill(webs.fleet.redis_pid(), signal.SIGKILL)
    assert webs.statuses(admin, "/no/such") == [404, 404]
    assert webs.statuses(None, "/no/such") == [401, 401]
    assert not until(lambda: webs.statuses(admin, "/no/such") != [404, 404], 6.0)

    webs.fleet.start_web()  # waits for its /healthz
    webs.bases = [webs.fleet.base]
    for path in ("/readyz", "/instances", "/proxy/x/v1/models", "/no/such"):
        assert webs.statuses(admin, path) == webs.statuses(None, path) == [503]


def test_a_redis_that_lost_all_opens_nothing(webs: TwoWebs) -> None:
    admin = webs.keys.created("ops", "--scope", "admin")
    webs.soon(lambda: webs.statuses(admin) == [200, 200])
    with redis.Redis.from_url(webs.fleet.redis_url) as client:
        client.flushall()
    warned = "the store has lost all API keys"
    logs = [process.log for process in webs.fleet.processes]
    assert until(lambda: all(warned in log.read_text() for log in logs), 7.0)
    assert webs.statuses(None) == [401, 401]
    assert webs.statuses(admin) == [200, 200]


def test_list_shows_all_that_was_made_and_no_secret(webs: TwoWebs) -> None:
    nothing = webs.keys("list")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "no API key was ever made" in nothing.stderr
    ann = webs.keys.created("ann", "--scope", "inference", "--model", "org/*", "--model", "small")
    ops = webs.keys.created("ops", "--scope", "admin", "--expires", "30d")
    webs.keys("revoke", id_of(ann))
    listed = webs.keys("list")
    heading, *rows = [line.split() for line in listed.stdout.splitlines()]
    assert heading == ["ID", "NAME", "SCOPE", "MODELS", "CREATED", "EXPIRES", "STATE"]
    first, second = sorted(rows, key=lambda row: row[1])
    assert [*first[:4], *first[5:]] == [
        id_of(ann), "ann", "inference", "org/*,small", "never", "revoked",
    ]  # fmt: skip
    assert [*second[:4], second[6]] == [id_of(ops), "ops", "admin", "all", "active"]
    for token in (ann, ops):
        assert token[13:] not in listed.stdout
    assert not re.search(r"[0-9a-f]{64}", listed.stdout)


def test_a_key_in_the_wrong_place_is_in_no_log(own_fleet: LocalFleet) -> None:
    own_fleet.start_web(APP_DEBUG="true")
    port = urlsplit(own_fleet.base).port or 0
    log = own_fleet.processes[-1].log
    for text in (
        "GET /{}?{} HTTP/1.1\r\nHost: localhost",
        "{} / HTTP/1.1\r\nHost: localhost",
        "GET / HTTP/1.1\r\nHost: localhost\r\nBearer {}",
        "GET / HTTP/1.1\r\nHost: localhost\r\nx-api-key {}: x",
        "GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {}",
    ):
        key, token = a_key()
        head = text.replace("{}", token.decode())
        with socket.create_connection(("127.0.0.1", port), 10) as caller:
            caller.sendall(f"{head}\r\n\r\n".encode())
            assert caller.recv(4096).startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
        assert is_said(f"vfm_{key.key_id}_[secret]", log), head
        assert token.decode() not in log.read_text()


def test_a_fleet_without_an_admin_key_is_said_to_be(webs: TwoWebs) -> None:
    said = "there is no admin key"
    assert said in webs.keys("create", "ann", "--scope", "inference").stderr
    made = webs.keys("create", "ops", "--scope", "admin")
    assert said not in made.stderr
    assert said in webs.keys("revoke", id_of(made.stdout.strip())).stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("create", 2, "Missing argument 'NAME'"),
        ("create ann", 2, "--scope"),
        ("create ann --scope root", 2, "'root' is not one of 'admin', 'inference'"),
        ("create -ann --scope admin", 2, "No such option"),
        ("create ä --scope admin", 2, "name: 'ä' is not 1 to 63 letters"),
        ("create ann --scope inference --model a[", 2, "model: 'a[' is not a glob"),
        ("create ann --scope admin --model a", 2, "an admin key is for all models"),
        ("create ann --scope admin --expires soon", 2, "expires: 'soon' is neither a duration"),
        ("create ann --scope admin --expires 2020-01-01", 2, "is not in the future"),
        ("revoke aaaaaaaa", 1, "no key 'aaaaaaaa'"),
        ("rotate aaaaaaaa", 1, "no key 'aaaaaaaa'"),
        ("rotate aaaaaaaa --overlap 1y", 2, "overlap: '1y' is not a duration"),
        ("nothing", 2, "No such command 'nothing'"),
    ],
)
def test_an_error_is_one_line_and_an_exit_status(
    redis_url: str, words: str, status: int, said: str
) -> None:
    done = CommandLine(REDIS_URL=redis_url)(*words.split())
    assert (done.returncode, done.stdout) == (status, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert said in done.stderr


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("keys-redis")) as url:
        yield url


@pytest.mark.parametrize("words", ["list", "create ann --scope admin", "revoke a", "rotate a"])
def test_a_redis_that_is_not_there_is_said_to_be(words: str, tmp_path: Path) -> None:
    embedded = CommandLine(REDIS_URL="", RUN_DIR=str(tmp_path))
    for keys in (embedded, CommandLine(REDIS_URL="redis://:secret@127.0.0.1:1/0")):
        done = keys(*words.split())
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "Redis does not answer" in done.stderr
        assert "make run" in done.stderr
        assert "secret" not in done.stderr


def test_keys_are_made_on_the_redis_that_comes_along(own_fleet: LocalFleet) -> None:
    run_dir = own_fleet.folder / "run"
    env = {"REDIS_URL": "", "RUN_DIR": str(run_dir)}
    own_fleet.start("redis", [sys.executable, "-m", "shared.embedded_redis"], env)
    keys = CommandLine(**env)
    assert until(lambda: keys("list").returncode == 0, START_S)
    token = keys.created("ops", "--scope", "admin")
    assert id_of(token) in keys("list").stdout


def test_an_inference_key_uses_its_own_models_engines_only(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one")
    own_fleet.start_web(PROXY_ALLOW_PATHS="")
    keys = CommandLine(REDIS_URL=own_fleet.redis_url)
    mine = own_fleet.create("org/tiny")["instance_id"]
    other = own_fleet.create("other/tiny")["instance_id"]
    admin = keys.created("ops", "--scope", "admin")
    key = keys.created("ann", "--scope", "inference", "--model", "org/*")

    def status(path: str, token: str, method: str = "GET") -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return own_fleet.call(method, path, headers=headers).status_code

    assert until(lambda: status("/readyz", key) == 200, EFFECTIVE_S)
    assert until(lambda: status(f"/proxy/{mine}/v1/models", key) == 200, EFFECTIVE_S)
    assert status(f"/proxy/{other}/v1/models", key) == 404
    assert status(f"/proxy/{other}/v1/models", admin) == 200
    assert status(f"/proxy/{mine}/metrics", key) == 403
    assert status(f"/proxy/{mine}/metrics", admin) == 200
    assert status(f"/proxy/{mine}/echo", admin) == 403  # the stand-in's, not vLLM's
    assert status("/instances", key) == 403
    assert status(f"/instances/{mine}", key, "DELETE") == 403
    own_fleet.http.headers["x-api-key"] = admin  # so that it can be cleared up


def test_events_say_whose_key_it_was_and_a_revoked_one_follows_no_more(
    own_fleet: LocalFleet,
) -> None:
    own_fleet.start_worker("one")
    own_fleet.start_web()
    keys = CommandLine(REDIS_URL=own_fleet.redis_url)
    ops, ann = (keys.created(name, "--scope", "admin") for name in ("ops", "ann"))
    own_fleet.http.headers["x-api-key"] = ops
    assert until(lambda: own_fleet.call("GET", "/instances").ok, EFFECTIVE_S)
    body = {"model_name": "org/tiny"}
    once = {"Idempotency-Key": "k"}
    first = own_fleet.call("POST", "/instances", json=body, headers=once)
    others = own_fleet.call("POST", "/instances", json=body, headers={**once, "x-api-key": ann})
    assert first.headers["Location"] != others.headers["Location"]  # each has keys of its own
    path = others.headers["Location"]
    headers = {"x-api-key": ann}
    with own_fleet.call("GET", f"{path}/events?follow=1", headers=headers, stream=True) as answer:
        coming = messages(answer)
        assert next(coming).content["who"] == f"ann (key {id_of(ann)})"
        assert keys("revoke", id_of(ann)).returncode == 0
        last = list(coming)[-1]
    assert (last.kind, "revoked" in last.data) == ("end", True)


def test_the_commands_of_the_readme_work(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = [block for block in blocks if "flask --app web keys" in block]
    assert len(lines) == 5
    script = f'set -eu\ncurl() {{ {CURL} --fail-with-body -sS "$@"; echo; }}\n{"".join(lines)}'
    port = own_fleet.base.rsplit(":", 1)[1]
    done = subprocess.run(
        ["bash", "-c", script.replace("localhost:5000", f"localhost:{port}")],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": own_fleet.redis_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = CommandLine(REDIS_URL=own_fleet.redis_url)("list").stdout
    states = sorted(line.split()[1::5] for line in listed.splitlines()[1:])
    assert states == [["ann", "active"], ["ann", "revoked"], ["ops", "active"]]
