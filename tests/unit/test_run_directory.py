"""One engine's folder: small files replaced whole, a lock that only asking cannot take."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.settings import ROOT
from workers.run_directory import RunDirectory

HOLD = (
    "import sys; from pathlib import Path; from workers.run_directory import RunDirectory; "
    "print(RunDirectory(Path(sys.argv[1])).take_lock(), flush=True); sys.stdin.read()"
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "engine")
    run.make()
    return run


@contextmanager
def locking(run: RunDirectory) -> Iterator[tuple[int, bool]]:
    """Have another process try to take the lock; yield its pid and whether it got it."""
    command = [sys.executable, "-c", HOLD, str(run.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as other:
        assert other.stdout
        yield other.pid, other.stdout.readline() == "True\n"
        other.kill()


def test_only_the_owner_may_look_inside(run: RunDirectory) -> None:
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_making_it_twice_is_harmless(run: RunDirectory) -> None:
    run.write("state", {"pid": 1})
    run.make()
    assert run.read("state") == {"pid": 1}


def test_what_was_never_written_is_none(run: RunDirectory) -> None:
    assert run.read("exit") is None


def test_a_folder_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path / "none").read("exit") is None


def test_what_was_written_is_read(run: RunDirectory) -> None:
    run.write("exit", {"code": None, "signal": 9, "at": 1.5})
    assert run.read("exit") == {"code": None, "signal": 9, "at": 1.5}


def test_a_file_is_for_its_owner_only(run: RunDirectory) -> None:
    run.write("launch", {"key": "hush"})
    assert stat.S_IMODE((run.path / "launch.json").stat().st_mode) == 0o600


def test_writing_replaces_the_whole_file(run: RunDirectory) -> None:
    run.write("state", {"pid": 1, "more": "x" * 1000})
    before = (run.path / "state.json").open()
    run.write("state", {"pid": 2})
    with before:
        assert json.load(before)["pid"] == 1  # a reader of the old file sees all of it
    assert run.read("state") == {"pid": 2}


def test_what_another_process_has_replaced_or_removed_is_seen(run: RunDirectory) -> None:
    other = RunDirectory(run.path)
    for port in (9000, 9001, 9002):
        other.write("launch", {"port": port})
        assert run.read("launch") == {"port": port}
    other.remove("launch")
    assert run.read("launch") is None


def test_a_file_that_has_not_changed_is_not_read_again(run: RunDirectory) -> None:
    run.write("launch", {"port": 9000})
    assert run.read("launch") is run.read("launch")


def test_a_write_that_fails_leaves_the_file_as_it_was(run: RunDirectory) -> None:
    run.write("state", {"pid": 1})
    with pytest.raises(TypeError):
        run.write("state", {"pid": object()})
    assert run.read("state") == {"pid": 1}


def test_a_draft_of_a_writer_that_died_is_no_obstacle(run: RunDirectory) -> None:
    (run.path / "state.json.new").write_text("{half")
    run.write("state", {"pid": 2})
    assert run.read("state") == {"pid": 2}


def test_the_age_of_a_file_is_since_its_writing(run: RunDirectory) -> None:
    run.write("stop", {})
    os.utime(run.path / "stop.json", (100.0, 100.0))
    assert run.age_of("stop", now=130.0) == 30.0


def test_what_was_never_written_has_no_age(run: RunDirectory) -> None:
    assert run.age_of("stop", now=130.0) is None


def test_nobody_holds_a_lock_that_was_never_taken(run: RunDirectory) -> None:
    assert run.lock_holder() is None


def test_a_folder_that_does_not_exist_has_no_lock_holder(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path / "none").lock_holder() is None


def test_the_holder_of_the_lock_is_seen_from_another_process(run: RunDirectory) -> None:
    with locking(run) as (pid, got):
        assert (got, run.lock_holder()) == (True, pid)


def test_only_one_process_gets_the_lock(run: RunDirectory) -> None:
    with locking(run), locking(run) as (_, got):
        assert not got


def test_the_end_of_its_holder_lets_the_lock_go(run: RunDirectory) -> None:
    with locking(run):
        pass
    assert run.lock_holder() is None


def test_asking_for_the_holder_takes_nothing(run: RunDirectory) -> None:
    (run.path / "lock").touch()
    run.lock_holder()
    with locking(run) as (_, got):
        assert got


def test_asking_does_not_let_a_held_lock_go(run: RunDirectory) -> None:
    with locking(run) as (pid, _):
        assert [run.lock_holder(), run.lock_holder()] == [pid, pid]
