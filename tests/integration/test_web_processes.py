"""Web processes come and go: nobody's stream is cut before its time, and nobody is turned away."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from time import monotonic

import pytest
import requests

from shared.settings import ROOT
from tests.demo.fleet import running_fleet
from tests.demo.waiting import until
from tests.integration import each_web
from tests.integration.conformance import Caller, Case, Way, ways
from tests.integration.harness import STANDIN, WAIT, local_fleet
from tests.integration.web_processes import (
    WAYS,
    WHOLE,
    Asking,
    Held,
    Stream,
    callers_of,
    children_of,
    has_ended,
    master_of,
    metric,
    running_web,
    serving,
)

_BOOT_S = 30.0


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    with running_web(tmp_path, WEB_PROCESSES="2") as way:
        assert until(lambda: metric(way, "fleet_web_processes", {}) == 2, _BOOT_S)
        yield way


def known_to_all(case: Case, path: str = "") -> bool:
    """Return whether every web process has heard that the instance runs; asks each for `path`."""
    way = case.way
    return 503 not in each_web.statuses(way.fleet, master_of(way), path or case.path).values()


@contextmanager
def a_case(way: Way) -> Iterator[Case]:
    """Have an instance that every web process knows."""
    with closing(Case(way)) as case:
        assert until(lambda: known_to_all(case), 10)
        case.engine.forget()
        yield case


@pytest.fixture
def case(way: Way) -> Iterator[Case]:
    with a_case(way) as case:
        yield case


@pytest.fixture
def held(case: Case) -> Iterator[Held]:
    """Return the script of the instance's engine: its streams wait for the test."""
    case.engine.script = held = Held()
    yield held
    held.let_go()


@pytest.fixture
def other(way: Way) -> Iterator[Case]:
    """Return a second instance, whose engine answers at once."""
    with a_case(way) as case:
        yield case


def streams_of_all(case: Case) -> list[Stream]:
    """Begin streams of every way; with so many each process has some."""
    return [Stream(case, way) for way in WAYS for _ in range(6)]


def replaced_by_hup(way: Way) -> list[int]:
    old = serving(way)
    master_of(way).popen.send_signal(signal.SIGHUP)
    new = 2
    assert until(lambda: len(set(serving(way)) - set(old)) == new, _BOOT_S)
    return old


def replaced_one_by_one(way: Way) -> list[int]:
    old = serving(way)[:1]
    os.kill(old[0], signal.SIGTERM)
    return old


def replaced_by_upgrade(way: Way) -> list[int]:
    old_master = master_of(way).popen
    old = serving(way)
    old_master.send_signal(signal.SIGUSR2)
    assert until(lambda: len(serving(way)) == 3, _BOOT_S)
    (new_master,) = set(serving(way)) - set(old)
    assert until(lambda: len(children_of(new_master)) == 2, _BOOT_S)
    booted = "Booting worker with pid"
    assert until(lambda: master_of(way).log.read_text().count(booted) == 4, _BOOT_S)
    old_master.send_signal(signal.SIGTERM)
    return old


@pytest.mark.parametrize("replace", [replaced_by_hup, replaced_one_by_one, replaced_by_upgrade])
def test_streams_outlive_the_replacement_of_their_process(
    way: Way, case: Case, other: Case, held: Held, replace: Callable[[Way], list[int]]
) -> None:
    streams = streams_of_all(case)
    idle = [other.caller() for _ in range(8)]
    for caller in idle:
        caller.send(other.head("GET"))
        assert caller.answer().status == 200
    with ExitStack() as ended, Asking(other) as asking:
        assert asking.goes_on()
        old = replace(way)
        if replace is replaced_by_upgrade:
            (new_master,) = set(serving(way)) - set(old)
            ended.callback(os.kill, new_master, signal.SIGTERM)
        with ThreadPoolExecutor(len(idle)) as pool:  # at once: who says nothing is left, too
            left = list(pool.map(partial(is_left, other), idle))
        leaving = [caller for caller, has_left in zip(idle, left, strict=True) if has_left]
        assert leaving or replace is replaced_one_by_one
        assert asking.goes_on(50)
        assert all(not has_ended(pid) for pid in old)
        held.let_go()
        for stream in streams:
            assert stream.rest() == WHOLE[stream.way], stream.way
        assert until(lambda: all(has_ended(pid) for pid in old), 15)
        assert asking.goes_on(50), asking.wrong
    if replace is replaced_by_upgrade:
        assert master_of(way).popen.wait(15) == 0
        assert until(lambda: has_ended(new_master), 15)
    else:
        assert until(lambda: len(serving(way)) == 2, _BOOT_S)


def is_left(case: Case, caller: Caller) -> bool:
    """Ask over an idle connection for a while; return whether it was ended, and in order."""
    deadline = monotonic() + 1
    while monotonic() < deadline:
        caller.send(case.head("GET"))
        answer = caller.answer()
        assert (answer.status, answer.whole) == (200, True)
        if answer.header("connection") == "close":
            return caller.is_closed()
    return False


def test_a_stream_that_lasts_too_long_is_cut_and_counted(tmp_path: Path) -> None:
    limits = {"WEB_PROCESSES": "2", "WEB_GRACEFUL_TIMEOUT": "1"}
    with running_web(tmp_path, **limits) as way, a_case(way) as case:

        def counted() -> float:
            labels = {"instance": case.instance_id, "way": "relay"}
            return metric(way, "fleet_requests_total", labels)

        case.renew()  # of what was asked so far, a process may yet have to say
        # Until all have heard of it, some give its requests to the application, as they do this.
        assert until(lambda: known_to_all(case, f"/proxy/{case.instance_id}/v1/completion%73"), 10)
        case.engine.script = held = Held()
        streams = streams_of_all(case)
        old = replaced_by_hup(way)
        for stream in streams:
            assert stream.rest() == b"", stream.way
        assert until(lambda: all(has_ended(pid) for pid in old), 10)
        assert counted() == sum(stream.way == "relay" for stream in streams)
        held.let_go()


def test_a_stopped_web_tier_ends_its_streams_first_and_takes_nobody_else(
    way: Way, case: Case, held: Held
) -> None:
    streams = streams_of_all(case)
    master = master_of(way).popen
    processes = serving(way)
    master.send_signal(signal.SIGTERM)
    assert until(lambda: refuses(way), 10)
    assert master.poll() is None
    held.let_go()
    for stream in streams:
        assert stream.rest() == WHOLE[stream.way], stream.way
    assert master.wait(15) == 0
    assert all(has_ended(pid) for pid in processes)


def refuses(way: Way) -> bool:
    """Return whether nobody listens any more."""
    try:
        socket.create_connection(way.address, timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("after", [None, signal.SIGTERM, signal.SIGHUP])
def test_a_web_tier_that_is_to_end_at_once_waits_for_no_stream(
    way: Way, case: Case, number: int, after: int | None
) -> None:
    streams = streams_of_all(case)
    master = master_of(way).popen
    if after is not None:
        master.send_signal(after)
        before = "Handling signal: hup" if after == signal.SIGHUP else "Handling signal: term"
        assert until(lambda: before in master_of(way).log.read_text(), 10)
    processes = serving(way)
    began = monotonic()
    master.send_signal(number)
    assert master.wait(10) == 0
    assert monotonic() - began < 5
    assert all(has_ended(pid) for pid in processes)
    for stream in streams:
        assert stream.rest() == b"", stream.way


# A web process that stands between its fork and its first own handler of a signal.
_SLOW_BOOT = """
exec(open({configuration!r}).read())
def post_fork(server, worker):
    import pathlib, time
    pathlib.Path({folder!r}, str(worker.pid)).touch()
    time.sleep(2)
"""


@pytest.mark.parametrize("name", ["relay", "view", "gthread", "sync"])
def test_a_process_that_is_told_to_end_while_it_boots_ends(tmp_path: Path, name: str) -> None:
    booting = tmp_path / "booting"
    booting.mkdir()
    with local_fleet(tmp_path) as fleet:
        slow = tmp_path / "slow.conf.py"
        slow.write_text(_SLOW_BOOT.format(configuration=str(fleet.config), folder=str(booting)))
        fleet.config = slow
        chosen = ways().get(name, name)  # or one of gunicorn's own
        master = fleet.begin_web(worker_class=chosen, WEB_PROCESSES="1")
        assert until(lambda: any(booting.iterdir()), _BOOT_S)
        master.popen.send_signal(signal.SIGINT)
        assert master.popen.wait(10) == 0


def test_a_process_that_dies_while_old_ones_drain_is_replaced(
    way: Way, case: Case, other: Case, held: Held
) -> None:
    streams = streams_of_all(case)
    old = replaced_by_hup(way)
    first = next(pid for pid in serving(way) if pid not in old)
    os.kill(first, signal.SIGKILL)
    assert until(lambda: first not in serving(way) and len(serving(way)) == 4, _BOOT_S)
    second = replaced_by_another_hup(way)
    with Asking(other) as asking:
        assert asking.goes_on(50), asking.wrong
    held.let_go()
    for stream in streams:
        assert stream.rest() == WHOLE[stream.way], stream.way
    assert until(lambda: all(has_ended(pid) for pid in old + second), 15)
    assert len(serving(way)) == 2
    # Neither more nor fewer are kept from now on.
    (gone, _) = serving(way)
    os.kill(gone, signal.SIGKILL)
    assert until(lambda: gone not in serving(way) and len(serving(way)) == 2, _BOOT_S)


def replaced_by_another_hup(way: Way) -> list[int]:
    before = serving(way)
    master_of(way).popen.send_signal(signal.SIGHUP)
    new = 2
    assert until(lambda: len(set(serving(way)) - set(before)) == new, _BOOT_S)
    return before


def test_a_killed_process_takes_nobody_with_it(
    way: Way, case: Case, other: Case, held: Held
) -> None:
    streams = streams_of_all(case)
    killed, _ = serving(way)
    on_it = callers_of(killed, way.address[1])
    assert 0 < on_it < len(streams)
    with Asking(other) as asking:
        assert asking.goes_on()
        os.kill(killed, signal.SIGKILL)
        assert until(lambda: killed not in serving(way) and len(serving(way)) == 2, _BOOT_S)
        held.let_go()
        rests = [stream.rest() for stream in streams]
        whole = [rest == WHOLE[stream.way] for stream, rest in zip(streams, rests, strict=True)]
        assert 0 < whole.count(False) <= on_it
        assert {rest for rest, ended in zip(rests, whole, strict=True) if not ended} == {b""}
        answered = asking.answered
        assert until(lambda: asking.answered > answered + 50, 20)
    assert len(asking.wrong) <= 1, asking.wrong  # what was under way on it


def test_connections_are_shared_by_the_processes(way: Way, case: Case) -> None:
    for _ in range(64):
        caller = case.caller()
        caller.send(case.head("GET", "/healthz"))
        assert caller.answer().status == 200
    shares = [callers_of(pid, way.address[1]) for pid in serving(way)]
    assert sum(shares) >= 64
    assert min(shares) >= 16, shares


def test_a_configuration_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    with local_fleet(tmp_path) as fleet:
        fleet.config = config = tmp_path / "gunicorn.conf.py"
        config.write_text((ROOT / "configs/gunicorn.conf.py").read_text())
        web = fleet.start_web(RUN_DIR=str(tmp_path / "web-run"))
        processes = children_of(web.popen.pid)
        config.write_text("raise SystemExit(1)")
        web.popen.send_signal(signal.SIGHUP)
        assert until(lambda: "not reloaded" in web.log.read_text(), 10)
        assert children_of(web.popen.pid) == processes
        assert fleet.call("GET", "/healthz").ok
        assert web.end() == 0


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.2, 0.3, 0.4, 0.6])
def test_a_process_that_still_boots_hears_that_it_is_to_end(way: Way, after_s: float) -> None:
    before = serving(way)
    os.kill(before[0], signal.SIGKILL)
    assert until(lambda: len(set(serving(way)) - set(before)) == 1, _BOOT_S)
    Event().wait(after_s)  # at different points of it
    began = monotonic()
    assert master_of(way).end() == 0
    assert monotonic() - began < 10


def test_the_whole_fleet_ends_at_once_with_a_stream_under_way(tmp_path: Path) -> None:
    env = {"VLLM_COMMAND": STANDIN, "PROXY_ALLOW_PATHS": "/*", "REDIS_URL": ""}
    with running_fleet(tmp_path / "run", env) as fleet:
        body = {"model_name": "org/tiny"}
        instance = requests.post(f"{fleet.base}/instances", params=WAIT, json=body, timeout=60)
        path = f"/proxy/{instance.json()['instance_id']}/sse?count=10000&gap=0.1"
        with requests.get(f"{fleet.base}{path}", stream=True, timeout=60) as stream:
            assert next(stream.iter_lines())
            assert fleet.stop() < 20  # not WEB_GRACEFUL_TIMEOUT, nor KILL_WAIT
    assert fleet.process.returncode == 0


def test_relayed_requests_are_in_the_access_log_without_their_query(tmp_path: Path) -> None:
    command = {"GUNICORN_CMD_ARGS": "--access-logfile -"}
    with running_web(tmp_path, WEB_PROCESSES="1", **command) as way, closing(Case(way)) as case:
        assert until(lambda: metric(way, "fleet_routing_table_instances", {}) == 1, 10)
        case.ask("GET", "?secret=word", "X-Request-Id: mine")
        line = f'127.0.0.1 "GET {case.path}" 200 '
        assert until(lambda: line in master_of(way).log.read_text(), 5)
        assert until(lambda: " mine" in master_of(way).log.read_text(), 10)
        logged = next(x for x in master_of(way).log.read_text().splitlines() if " mine" in x)
        assert "word" not in logged
