"""Rows 1 to 8, 39, 40, 46: workers and nodes that die, hang, come twice or come back."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic
from uuid import uuid4

from shared.domain.node import Node
from shared.store.redis import RedisStore, connect
from tests.faults import sight
from tests.faults.ground import Ground, Setup
from tests.faults.row import Figures, Promise, Row
from tests.faults.timing import pause, seconds_until
from tests.faults.traffic import traffic
from tests.integration.harness import processes_of

_KILLS = 50
_FROZEN_S = 60.0
_LOOKS_S = 3.0  # a new worker has looked at its engines by then, and done what it thinks right
_MIB = 2**20
KEEPING = Setup(env=(("KEEP_ENGINES", "true"),))


def killed_idle(ground: Ground, _: int) -> Figures:
    """Row 1."""
    made = [ground.create() for _ in range(3)]
    ids = [record["instance_id"] for record in made]
    was = {r["instance_id"]: (r["pid"], sight.start_time(r["pid"])) for r in made}
    with traffic(ground, *ids) as seen:
        ground.kill_worker()
        pause(1.0)
        begun = monotonic()
        ground.start_worker()
        adopted_s = monotonic() - begun
        pause(0.5)
    now = {i: (ground.record(i)["pid"], sight.start_time(ground.record(i)["pid"])) for i in ids}
    assert now == was, f"pids and start times were {was}, are {now}"
    assert all(ground.status(i) == "running" for i in ids)
    assert all(ground.spawns(i) == 1 for i in ids), "something was started again"
    for instance_id in ids:  # an engine that is not adopted cannot be stopped
        ground.delete(instance_id)
    return {"adopted": adopted_s, "failed requests": seen.failed}


def killed_in_a_start(ground: Ground, _: int) -> Figures:
    """Row 2."""
    instance_id = ground.post(start_delay=0.5)
    pause(random.uniform(0.0, 2.0))  # noqa: S311
    ground.kill_worker()
    begun = monotonic()
    ground.start_worker()
    ground.becomes(instance_id, "running")
    running_s = monotonic() - begun
    pause(0.3)
    trees = sight.engines(ground.folder)[instance_id]
    assert trees == [ground.record(instance_id)["pid"]], trees
    return {"trees": len(trees), "running again": running_s}


def killed_in_a_stop(ground: Ground, _: int) -> Figures:
    """Row 3."""
    instance_id = ground.create(term_delay=1)["instance_id"]
    ground.fleet.call("DELETE", f"/instances/{instance_id}")
    pause(random.uniform(0.0, 1.5))  # noqa: S311
    ground.kill_worker()
    begun = monotonic()
    ground.start_worker()
    ground.becomes(instance_id, "stopped", within_s=40)
    return {"stopped": monotonic() - begun}


def killed_again_and_again(ground: Ground, _: int) -> Figures:
    """Row 4."""
    over, asked = threading.Event(), list[str]()

    def load() -> None:
        while not over.wait(0.3):
            with suppress(AssertionError):  # full: 503
                asked.append(ground.post(start_delay=random.uniform(0, 1)))  # noqa: S311
            if len(asked) > 3:
                victim = random.choice(asked[-6:])  # noqa: S311
                ground.fleet.call("DELETE", f"/instances/{victim}")

    caller = threading.Thread(target=load)
    caller.start()
    try:
        for _ in range(_KILLS):
            pause(random.uniform(1.0, 5.0))  # noqa: S311
            ground.kill_worker()
            ground.start_worker(wait=False)
    finally:
        over.set()
        caller.join()
    for instance_id in asked:
        ground.fleet.call("DELETE", f"/instances/{instance_id}")
    for instance_id in asked:
        ground.becomes(instance_id, "stopped", within_s=60)
    left = sum(len(pids) for pids in sight.trees(ground.folder).values())
    return {"orphans": left, "kills": -_KILLS}


def told_to_leave(ground: Ground, number: int) -> Figures:
    """Row 5."""
    ids = [ground.create()["instance_id"] for _ in range(2)]
    before = sight.engines(ground.folder)
    ground.workers["one"].end((signal.SIGTERM, signal.SIGQUIT)[number % 2])
    alive = sight.engines(ground.folder)
    assert [ground.record(i)["status"] for i in ids] == ["running"] * 2, "records changed"
    ground.start_worker()
    pause(1.0)
    assert all(ground.spawns(i) == 1 for i in ids)
    return {"engines lost": sum(alive.get(i) != before[i] for i in ids)}


def frozen(ground: Ground, _: int) -> Figures:
    """Row 6."""
    instance_id = ground.create()["instance_id"]
    epoch, worker = ground.epoch(), ground.workers["one"].popen.pid
    os.kill(worker, signal.SIGSTOP)
    try:
        lost_s = seconds_until(
            lambda: ground.node_status(instance_id).startswith("lost"), 30, what="seen as lost"
        )
        pause(_FROZEN_S - lost_s)
        assert ground.status(instance_id) == "running"
    finally:
        os.kill(worker, signal.SIGCONT)
    back_s = seconds_until(
        lambda: not ground.node_status(instance_id).startswith("lost"), 30, what="seen as back"
    )
    pause(1.0)
    assert ground.epoch() == epoch, "it announced itself anew"
    assert ground.spawns(instance_id) == 1, "it was started twice"
    return {"seen as lost": lost_s, "seen as back": back_s}


def second_worker(ground: Ground, _: int) -> Figures:
    """Row 7."""
    instance_id = ground.create()["instance_id"]
    first, begun = ground.workers["one"], monotonic()
    second = ground.start_worker(wait=False)
    ground.workers["one"] = first
    status = second.popen.wait(20)
    took_s = monotonic() - begun
    assert status == 3, f"exit status {status}"
    assert "a worker already runs" in second.log.read_text()
    assert first.popen.poll() is None
    assert ground.status(instance_id) == "running"
    return {"refused": took_s}


def superseded(ground: Ground, _: int) -> Figures:
    """Row 8."""
    record = ground.create()
    instance_id, worker = record["instance_id"], ground.workers["one"]
    holder = ground.redis.do("HGET", "fleet:node:one", "holder")
    store = RedisStore(connect(ground.redis.url))
    begun = monotonic()
    store.announce(Node(name="one", address="127.0.0.1", max_instances=20), holder)
    before = len(ground.events(instance_id))
    os.kill(record["pid"], signal.SIGKILL)
    seconds_until(lambda: worker.popen.poll() is not None, 30, what="the old worker ends")
    left_s = monotonic() - begun
    accepted = len(ground.events(instance_id)) - before
    ground.start_worker()  # the next one sees that it is dead
    seconds_until(lambda: ground.status(instance_id) != "running", 20, what="it is noticed")
    return {"writes accepted": accepted, "old worker gone": left_s}


def dead_for_ever(ground: Ground, number: int) -> Figures:
    """Row 39."""
    instance_id = ground.create()["instance_id"]
    early = ground.fleet.call("DELETE", f"/instances/{instance_id}", params={"force": "1"})
    assert early.status_code == 409, f"force on a living node: {early.status_code}"
    assert ground.status(instance_id) == "running", "what was refused had an effect"
    returns = number % 2 == 1
    ground.kill_worker()
    for pid in [] if returns else processes_of(ground.fleet.run_dir("one")):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    lost_s = seconds_until(
        lambda: ground.node_status(instance_id).startswith("lost"), 30, what="seen as lost"
    )
    answer = ground.fleet.call("DELETE", f"/instances/{instance_id}")
    assert answer.status_code == 202, f"delete of it: {answer.status_code} {answer.text}"
    forced = ground.fleet.call("DELETE", f"/instances/{instance_id}", params={"force": "1"})
    assert forced.status_code == 200, f"forced delete: {forced.status_code} {forced.text}"
    assert instance_id not in ground.fleet.call("GET", "/instances").json()
    begun = monotonic()
    ground.start_worker()
    seconds_until(lambda: not sight.trees(ground.folder), 30, what="what runs of it is ended")
    return {"seen as lost": lost_s, "reaped on return": monotonic() - begun}


def back_after_delete(ground: Ground, _: int) -> Figures:
    """Row 40."""
    instance_id = ground.create()["instance_id"]
    ground.kill_worker()
    ground.fleet.call("DELETE", f"/instances/{instance_id}")
    begun = monotonic()
    ground.start_worker()
    seconds_until(lambda: not sight.trees(ground.folder), 30, what="its processes are gone")
    ground.becomes(instance_id, "stopped")
    return {"reaped": monotonic() - begun}


def out_of_memory(ground: Ground, _: int) -> Figures:
    """Row 46."""
    record = ground.create()
    worker = ground.workers["one"].popen
    with _memory_cgroup(worker.pid) as killed_by_kernel:
        if not killed_by_kernel:  # no cgroup may be made here: the next best is to refuse it memory
            resource.prlimit(worker.pid, resource.RLIMIT_AS, (64 * _MIB, 64 * _MIB))
            pause(5.0)
            worker.kill()
        seconds_until(lambda: worker.poll() is not None, 30, what="the worker is killed")
    assert sight.start_time(record["pid"]), "the engine died, too"
    alive, instance_id = sight.engines(ground.folder), record["instance_id"]
    begun = monotonic()
    ground.start_worker()
    adopted_s = monotonic() - begun
    pause(_LOOKS_S)  # it has only announced itself: what it makes of the engine shows later
    now = sight.engines(ground.folder)
    assert ground.record(instance_id)["pid"] == record["pid"]
    assert ground.spawns(instance_id) == 1, "it was started again"
    ground.delete(instance_id)
    return {"adopted": adopted_s, "engines lost": sum(now.get(i) != alive[i] for i in alive)}


class _memory_cgroup:  # noqa: N801 - a context
    """Holds one process in a group with less memory than it has; the kernel kills it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._path = Path("/sys/fs/cgroup/memory") / f"faults-{uuid4().hex[:8]}"

    def __enter__(self) -> bool:
        try:
            self._path.mkdir()
            (self._path / "memory.move_charge_at_immigrate").write_text("1")
            (self._path / "cgroup.procs").write_text(str(self._pid))
            (self._path / "memory.limit_in_bytes").write_text(str(4 * _MIB))
        except OSError:
            with suppress(OSError):  # EBUSY: nothing could be reclaimed; it dies at its next page
                return bool((self._path / "cgroup.procs").read_text())
            return False
        return True

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._path.rmdir()


ROWS = (
    Row(
        number=1,
        fault="worker killed, engines idle",
        done="kill -9 under requests to three engines; another worker a second later",
        promise="engines serve on and are adopted: same pid, same start time",
        figures=(
            Promise(name="adopted", at_most=10, unit="s"),
            Promise(name="failed requests", at_most=0),
        ),
        run=killed_idle,
        short=True,
    ),
    Row(
        number=2,
        fault="worker killed in the middle of a start",
        done="kill -9 0 to 2 s after the POST",
        promise="exactly one tree afterwards",
        figures=(
            Promise(name="trees", at_most=1),
            Promise(name="running again", at_most=30, unit="s"),
        ),
        run=killed_in_a_start,
        runs=20,
    ),
    Row(
        number=3,
        fault="worker killed in the middle of a stop",
        done="kill -9 0 to 1.5 s after the DELETE of an engine that takes 1 s to leave",
        promise="the next worker ends it",
        figures=(Promise(name="stopped", at_most=30, unit="s"),),
        run=killed_in_a_stop,
        runs=10,
    ),
    Row(
        number=4,
        fault="worker killed again and again, under load",
        done=f"{_KILLS} times kill -9, 1 to 5 s apart, while instances are made and deleted",
        promise="the invariants hold; nothing is left over",
        figures=(Promise(name="orphans", at_most=0), Promise(name="kills", at_most=-_KILLS)),
        run=killed_again_and_again,
        runs=1,
    ),
    Row(
        number=5,
        fault="worker told to leave, KEEP_ENGINES=true",
        done="SIGTERM and SIGQUIT in turn",
        promise="engines stay, records stay",
        figures=(Promise(name="engines lost", at_most=0),),
        run=told_to_leave,
        runs=4,
        setup=KEEPING,
    ),
    Row(
        number=6,
        fault="worker frozen",
        done=f"SIGSTOP for {_FROZEN_S:g} s",
        promise="shown as lost; no second start, no new announcement; well again after it",
        figures=(
            Promise(name="seen as lost", at_most=20, unit="s"),
            Promise(name="seen as back", at_most=10, unit="s"),
        ),
        run=frozen,
        runs=1,
    ),
    Row(
        number=7,
        fault="a second worker on the node",
        done="started beside the first",
        promise="it exits with status 3 and says why",
        figures=(Promise(name="refused", at_most=2, unit="s"),),
        run=second_worker,
        short=True,
    ),
    Row(
        number=8,
        fault="a worker that another has superseded",
        done="the node announced by somebody else, then its engine killed",
        promise="what the old one writes is refused; it leaves",
        figures=(
            Promise(name="writes accepted", at_most=0),
            Promise(name="old worker gone", at_most=10, unit="s"),
        ),
        run=superseded,
        runs=3,
    ),
    Row(
        number=39,
        fault="node dead for ever",
        done="kill -9 of its worker, shims and engines, then DELETE with force=1; every "
        "second time only of the worker, which returns after that",
        promise="shown as lost; delete is accepted, and with force=1 forgets it; reaped on return",
        figures=(
            Promise(name="seen as lost", at_most=20, unit="s"),
            Promise(name="reaped on return", at_most=15, unit="s"),
        ),
        run=dead_for_ever,
        runs=2,
    ),
    Row(
        number=40,
        fault="node back after a delete",
        done="DELETE while there is no worker, then a worker",
        promise="its processes are reaped",
        figures=(Promise(name="reaped", at_most=15, unit="s"),),
        run=back_after_delete,
    ),
    Row(
        number=46,
        fault="worker without memory",
        done="a memory cgroup smaller than the worker (without one: RLIMIT_AS, then kill -9)",
        promise="the worker dies alone, its engines are adopted",
        figures=(
            Promise(name="adopted", at_most=10, unit="s"),
            Promise(name="engines lost", at_most=0),
        ),
        run=out_of_memory,
        runs=3,
    ),
)
