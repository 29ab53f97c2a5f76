"""Which processes belong to an engine, seen on real processes; ending all of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.demo.waiting import until
from workers.process_tree import (
    Identity,
    Marks,
    boot_id,
    identity,
    kill,
    marked,
    members,
    start_time,
)

ID = "smol-aaaa2222"
SLEEP = [sys.executable, "-S", "-c", "print(flush=True); import time; time.sleep(60)"]
# A parent whose child leaves for another session and says its pid.
PARENT = [
    sys.executable,
    "-S",
    "-c",
    """import os, time
pid = os.fork()
if pid == 0: os.setsid()
else: print(pid, flush=True)
time.sleep(60)""",
]
# A first process that ends and leaves a child behind in its session.
ORPHAN = [
    sys.executable,
    "-S",
    "-c",
    "import os, time\npid = os.fork()\nif pid: print(pid, flush=True); os._exit(0)\ntime.sleep(60)",
]

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Give a function that spawns a process, which has said a line; end them all."""
    spawned: list[subprocess.Popen[str]] = []

    def spawn(
        command: list[str] = SLEEP, *, cwd: Path = tmp_path, own_session: bool = False, **env: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={"PATH": os.environ["PATH"]} | env,
            start_new_session=own_session,
            stdout=subprocess.PIPE,
            text=True,
        )
        spawned.append(process)
        return process

    yield spawn
    for process in spawned:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = tmp_path / "engine" / "work"
    work.mkdir(parents=True)
    return work


def said(process: "subprocess.Popen[str]") -> str:
    """Return the line that a process says once it has begun."""
    assert process.stdout
    return process.stdout.readline().strip()


def marks(work: Path, *, leader: Identity | None = None, shim: int | None = None) -> Marks:
    """Return the marks of an engine."""
    return Marks(instance_id=ID, work=work, leader=leader, shim=shim)


def test_without_processes_there_are_no_members(work: Path) -> None:
    assert members(marks(work)) == set()


def test_a_process_is_found_by_its_current_directory(spawn: Spawn, work: Path) -> None:
    found = spawn(cwd=work, own_session=True)
    said(found)
    assert members(marks(work)) == {found.pid}


@pytest.mark.parametrize("written", ["link/work", "engine/../engine/work"])
def test_a_current_directory_is_the_same_however_its_path_is_written(
    spawn: Spawn, work: Path, written: str
) -> None:
    (work.parent.parent / "link").symlink_to(work.parent)  # as /var/run is a link to /run
    found = spawn(cwd=work, own_session=True)
    said(found)
    assert members(marks(work.parent.parent / written)) == {found.pid}


def test_a_process_is_found_by_a_current_directory_that_is_gone(spawn: Spawn, work: Path) -> None:
    found = spawn(cwd=work, own_session=True)
    said(found)
    work.rmdir()
    assert members(marks(work)) == {found.pid}


# Takes a terminal, as an operator's shell has one.
AT_A_TERMINAL = [
    sys.executable,
    "-S",
    "-c",
    """import fcntl, os, termios, time
_, terminal = os.openpty()
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
print(flush=True)
time.sleep(60)""",
]
# A parent that is none of ours, as sshd is, whose child looks around.
VISITOR = [
    sys.executable,
    "-S",
    "-c",
    """import os, sys, time
pid = os.fork()
if pid == 0: os.chdir(sys.argv[1])
else: print(pid, flush=True)
time.sleep(60)""",
]


def test_an_operator_who_looks_around_is_not_found(spawn: Spawn, work: Path) -> None:
    said(spawn(AT_A_TERMINAL, cwd=work, own_session=True))
    visitor = int(said(spawn([*VISITOR, str(work)])))
    try:
        assert until(lambda: Path(f"/proc/{visitor}/cwd").readlink() == work, 5.0)
        assert members(marks(work)) == set()
        assert marked(work.parent.parent) == {}
    finally:
        os.kill(visitor, signal.SIGKILL)


def test_what_descends_from_a_member_is_one_wherever_it_has_gone(spawn: Spawn, work: Path) -> None:
    parent = spawn(
        [*PARENT[:3], f"import os; os.environ.clear(); {PARENT[3]}"], cwd=work, own_session=True
    )
    child = int(said(parent))
    try:
        assert members(marks(work)) == {parent.pid, child}
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_strangers_daemon_that_got_the_pid_for_its_session_is_not_found(
    spawn: Spawn, work: Path, tmp_path: Path
) -> None:
    daemons = spawn(ORPHAN, cwd=tmp_path, own_session=True)
    left = int(said(daemons))
    daemons.wait()
    ours = marks(work, leader=Identity(daemons.pid, 0))
    started = start_time(left)
    assert started
    try:
        assert members(replace(ours, over_at=started)) == {left}
        assert members(replace(ours, over_at=started - 1)) == set()
    finally:
        os.kill(left, signal.SIGKILL)


def test_marked_processes_are_found_by_instance(spawn: Spawn, work: Path) -> None:
    engines = work.parent.parent
    told = {"FLEET_INSTANCE_ID": "other", "FLEET_RUN_DIR": str(engines.parent)}
    by_folder, by_mark = spawn(cwd=work, own_session=True), spawn(**told)
    elsewhere = spawn(FLEET_INSTANCE_ID="other", FLEET_RUN_DIR="/elsewhere")
    for process in (by_folder, by_mark, elsewhere):
        said(process)
    assert marked(engines) == {work.parent.name: {by_folder.pid}, "other": {by_mark.pid}}


def test_a_process_is_found_by_its_session(spawn: Spawn, work: Path) -> None:
    leader = spawn(own_session=True)
    said(leader)
    assert members(marks(work, leader=identity(leader.pid))) == {leader.pid}


def test_an_orphan_is_found_by_the_session_of_its_dead_leader(spawn: Spawn, work: Path) -> None:
    leader = spawn(ORPHAN, own_session=True)
    orphan = int(said(leader))
    leader.wait()
    try:
        assert members(marks(work, leader=Identity(leader.pid, 1))) == {orphan}
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_stranger_with_the_pid_of_the_leader_is_not_found(spawn: Spawn, work: Path) -> None:
    stranger = spawn(own_session=True)
    said(stranger)
    assert members(marks(work, leader=Identity(stranger.pid, 1))) == set()


def test_a_process_is_found_by_descent_from_the_shim(spawn: Spawn, work: Path) -> None:
    shim = spawn(PARENT)
    child = int(said(shim))
    try:
        assert members(marks(work, shim=shim.pid)) == {child}
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_shim_is_no_member(spawn: Spawn, work: Path) -> None:
    shim = spawn(cwd=work)
    said(shim)
    assert members(marks(work, shim=shim.pid)) == set()


def test_a_process_is_found_by_its_environment(spawn: Spawn, work: Path) -> None:
    found = spawn(FLEET_INSTANCE_ID=ID)
    said(found)
    assert members(marks(work)) == {found.pid}


def test_a_stranger_is_never_found(spawn: Spawn, work: Path) -> None:
    sibling = work.parent / "work-2"
    sibling.mkdir()
    inside = work / "deeper"
    inside.mkdir()
    strangers = [
        spawn(),
        spawn(own_session=True),
        spawn(cwd=sibling),
        spawn(FLEET_INSTANCE_ID=f"{ID}x"),
        spawn(OTHER=f"FLEET_INSTANCE_ID={ID}"),
    ]
    for stranger in strangers:
        said(stranger)
    leader = spawn(own_session=True)
    said(leader)
    assert members(marks(work, leader=identity(leader.pid))) == {leader.pid}


def test_the_asking_process_is_never_found(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    assert members(marks(work)) == set()


def test_a_zombie_is_not_alive(spawn: Spawn, work: Path) -> None:
    found = spawn(cwd=work, own_session=True)
    said(found)
    who = identity(found.pid)
    assert who
    found.kill()
    assert until(lambda: not who.alive, 5.0)
    assert members(marks(work)) == set()


def test_an_identity_is_alive_while_its_process_runs(spawn: Spawn) -> None:
    found = spawn()
    said(found)
    who = identity(found.pid)
    assert who
    assert who.alive


def test_a_pid_with_another_start_time_is_another_process() -> None:
    started = start_time(os.getpid())
    assert started is not None
    assert not Identity(os.getpid(), started + 1).alive


def test_a_pid_that_nobody_has_has_no_identity() -> None:
    assert identity(2**22 + 1) is None


def test_a_process_name_may_hold_anything(spawn: Spawn) -> None:
    name = "a) R (b"
    code = f"open('/proc/self/comm', 'w').write({name!r}); print(flush=True)"
    found = spawn([sys.executable, "-S", "-c", code + "\nimport time; time.sleep(60)"])
    said(found)
    assert start_time(found.pid) is not None


def test_the_boot_has_an_id() -> None:
    assert len(boot_id()) == 36


# kill


def test_kill_leaves_nothing(spawn: Spawn, work: Path) -> None:
    leader = spawn(PARENT, cwd=work, own_session=True, FLEET_INSTANCE_ID=ID)
    child = int(said(leader))
    engine = marks(work, leader=identity(leader.pid))
    assert members(engine) == {leader.pid, child}
    assert kill(lambda: members(engine), 5.0) == set()
    assert members(engine) == set()


def test_kill_leaves_strangers_alone(spawn: Spawn, work: Path) -> None:
    stranger, engine = spawn(), spawn(cwd=work, own_session=True)
    said(stranger)
    said(engine)
    kill(lambda: members(marks(work)), 5.0)
    assert stranger.poll() is None


def test_kill_scans_again_after_an_empty_scan(spawn: Spawn) -> None:
    late = spawn()
    scans = iter([set[int](), {late.pid}, set[int](), set[int]()])
    kill(lambda: next(scans), 5.0)
    assert late.wait(5.0) == -signal.SIGKILL


def test_kill_says_what_it_could_not_end() -> None:
    nobody = 2**22 + 1
    assert kill(lambda: {nobody}, 0.1) == {nobody}
