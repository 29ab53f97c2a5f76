"""What stays on a node's disk of engines that have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from shared.store import KEEP_ENDED_S
from workers.old_runs import OldRuns
from workers.run_directory import RunDirectory

NOW = 1_800_000_000.0
KIB = 1024


def ended(engines: Path, name: str, *, ago: float, kib: int = 100) -> RunDirectory:
    """Leave what an instance of two runs leaves, whose last word was said so many seconds ago."""
    run = RunDirectory(engines / name)
    run.make()
    run.write("manifest", {"record": {}})
    for path in (run.log(1), run.old_log(2), run.log(2)):
        path.write_bytes(b"x" * (kib * KIB // 4))
    run.shim_log(2).write_bytes(b"x" * (kib * KIB // 4))
    for path in run.path.iterdir():
        os.utime(path, (NOW - ago, NOW - ago))
    return run


def sizes(*runs: RunDirectory) -> list[int]:
    """Return how many KiB of logs are left of each."""
    return [run.log_bytes // KIB for run in runs]


def test_the_oldest_logs_go_first_and_only_as_many_as_must(tmp_path: Path) -> None:
    new, old, older = (ended(tmp_path, f"i{n}", ago=n * 100.0) for n in (1, 2, 3))
    OldRuns(tmp_path, 300 * KIB).sweep((), NOW)
    assert sizes(new, old, older) == [100, 100, 100]
    OldRuns(tmp_path, 299 * KIB).sweep((), NOW)
    assert sizes(new, old, older) == [100, 100, 0]
    assert older.read("manifest")
    OldRuns(tmp_path, 0).sweep((), NOW)
    assert sizes(new, old, older) == [0, 0, 0]


def test_logs_in_use_count_and_stay(tmp_path: Path) -> None:
    used, over = ended(tmp_path, "used", ago=900.0), ended(tmp_path, "over", ago=1.0)
    OldRuns(tmp_path, 150 * KIB).sweep({"used"}, NOW)
    assert sizes(used, over) == [100, 0]


def test_the_log_of_whoever_holds_its_lock_stays(tmp_path: Path) -> None:
    run = ended(tmp_path, "i1", ago=2.0 * KEEP_ENDED_S)
    code = (
        "import sys, time; from pathlib import Path; from workers.run_directory import RunDirectory"
        "; print(RunDirectory(Path(sys.argv[1])).take_lock(), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"True\n"
        OldRuns(tmp_path, 0).sweep((), NOW)
        assert sizes(run) == [100]
        holder.send_signal(signal.SIGKILL)
    OldRuns(tmp_path, 0).sweep((), NOW)
    assert not run.path.exists()


def test_a_run_directory_stays_for_a_day(tmp_path: Path) -> None:
    stays = ended(tmp_path, "i1", ago=KEEP_ENDED_S - 1.0)
    goes = ended(tmp_path, "i2", ago=KEEP_ENDED_S + 1.0)
    OldRuns(tmp_path, 200 * KIB).sweep((), NOW)
    assert (stays.path.exists(), goes.path.exists()) == (True, False)


def test_a_node_that_has_run_nothing_is_clean(tmp_path: Path) -> None:
    OldRuns(tmp_path / "engines", 0).sweep((), NOW)


def test_what_cannot_be_looked_at_keeps_no_other_from_its_turn(tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "lock").symlink_to("lock")  # whoever opens it goes round in circles
    old = ended(tmp_path, "old", ago=KEEP_ENDED_S + 1.0)
    OldRuns(tmp_path, 300 * KIB).sweep((), NOW)
    assert strange.exists()
    assert not old.path.exists()
