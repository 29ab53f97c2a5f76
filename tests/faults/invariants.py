"""What must hold after every fault, whatever it was. Each returns what is not so, in words.

I1 at most one tree per instance          I5 every accepted create settles
I2 no tree of what is recorded as ended   I6 no secret on any surface
I3 no port and no GPU owned twice         I7 the proxy reaches what the record names, nobody else
I4 only arrows of the status diagram      I8 control reads: p99 < 500 ms, or a clean 503
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

from shared.domain.instance import Status, may_become
from tests.faults import sight
from tests.faults.ground import CANARY, Ground
from tests.faults.timing import pause, seconds_until
from tests.faults.watch import Watch

SETTLE_S = 40.0  # the longest load of a row and its longest back-off
_CONTROL_P99_S = 0.5
_REFUSED_S = 2.6
STATUSES = frozenset(str(status) for status in Status)
_SETTLED = frozenset({"running", "failed", "stopped", "stop_failed", "backoff"})
_OVER = frozenset({"failed", "stopped"})
_CLEARS_UP_S = 10.0
_WRITTEN_BACK = "the store had "


def violations(ground: Ground, watch: Watch, *, timed: bool) -> list[str]:
    """Return everything that does not hold, once what is under way has settled."""
    found = settled(ground)
    found += at_rest(ground)
    found += [f"I1 two trees were seen: {one}" for one in sorted(set(watch.doubled))]
    found += [f"I7 {one}" for one in misrouted(ground)]
    found += [f"I6 {one}" for one in leaks(ground)]
    found += [f"I8 an answer of the control API: {one}" for one in sorted(set(watch.odd))]
    return found + (_too_slow(watch) if timed else [])


def at_rest(ground: Ground) -> list[str]:
    """Return what is wrong of I1 to I4, giving what is being cleared up its time."""
    found = _of_processes(ground)
    for _ in range(int(_CLEARS_UP_S / 0.1)):
        if not found:
            break
        pause(0.1)
        found = _of_processes(ground)
    return found + [f"I4 {one}" for one in illegal_arrows(ground)]


def settled(ground: Ground) -> list[str]:
    """Return which instances do not come to an end of their start (I5)."""
    try:
        seconds_until(
            lambda: all(r["status"] in _SETTLED for r in records(ground).values()),
            SETTLE_S,
            what="all have settled",
        )
    except AssertionError:
        shown = {i: r["status"] for i, r in records(ground).items() if r["status"] not in _SETTLED}
        return [f"I5 not settled after {SETTLE_S:g} s: {shown}"]
    return []


def records(ground: Ground) -> dict[str, Any]:
    """Return all records, of ended instances too."""
    answer = ground.fleet.call("GET", "/instances", params={"all": "1"})
    assert answer.ok, answer.text
    found: dict[str, Any] = answer.json()
    return found


def illegal_arrows(ground: Ground) -> list[str]:
    """Return each change of status that the diagram does not have."""
    found = []
    for instance_id in records(ground):
        shown = [event for event in ground.events(instance_id) if event["status"] in STATUSES]
        found += [
            f"{instance_id}: {before['status']} -> {after['status']}"
            for before, after in pairwise(shown)
            if not _may_follow(before["status"], after)
        ]
    return found


def _may_follow(before: str, after: Mapping[str, str]) -> bool:
    if after["reason"].startswith(_WRITTEN_BACK):
        return True  # no arrow, but a record that Redis had lost or had an older copy of
    return before == after["status"] or Status(after["status"]) in may_become(Status(before))


def misrouted(ground: Ground) -> list[str]:
    """Return each running instance behind whose address somebody else answers, or nobody."""
    found = []
    for instance_id, record in records(ground).items():
        if record["status"] != "running":
            continue
        pid = ground.engine_pid_behind(instance_id)
        now = ground.record(instance_id)
        if now["status"] == "running" and pid not in {now["pid"], record["pid"]}:
            found.append(f"{instance_id}: pid {pid} answers, not {now['pid']}")
    return found


def leaks(ground: Ground, instance_ids: Collection[str] | None = None) -> list[str]:
    """Return where the planted secret shows, of these instances or of all."""
    asked = ("/instances?all=1", "/readyz", "/metrics")
    surfaces = {path: ground.fleet.call("GET", path).text for path in asked}
    for instance_id in records(ground) if instance_ids is None else instance_ids:
        for run in ("current", "previous"):
            path = f"/instances/{instance_id}/logs?tail=5000&run={run}"
            surfaces[path] = ground.fleet.call("GET", path).text
        surfaces[f"events of {instance_id}"] = str(ground.events(instance_id))
    for process in ground.fleet.processes:
        surfaces[process.log.name] = process.log.read_text(errors="replace")
    return [f"secret on {name}" for name, text in surfaces.items() if CANARY in text]


def _of_processes(ground: Ground) -> list[str]:
    known, trees = records(ground), sight.trees(ground.folder)
    engines = sight.engines(ground.folder)
    found = [f"I1 {len(pids)} engines of {i}" for i, pids in engines.items() if len(pids) > 1]
    found += [
        f"I2 {known[i]['status']} {i} has pids {sorted(pids)}"
        for i, pids in trees.items()
        if i in known and known[i]["status"] in _OVER
    ]
    found += [f"I2 no record of {i}, pids {sorted(p)}" for i, p in trees.items() if i not in known]
    held = [r for r in known.values() if r["status"] not in _OVER]
    ports = Counter((r["node"], r["port"]) for r in held if r.get("port"))
    gpus = Counter((r["node"], gpu) for r in held for gpu in r.get("gpus") or ())
    found += [f"I3 {owned} is owned {n} times" for owned, n in (ports | gpus).items() if n > 1]
    return found


def _too_slow(watch: Watch) -> list[str]:
    found = []
    if watch.p99_s() > _CONTROL_P99_S:
        found.append(f"I8 p99 of control reads: {watch.p99_s():.2f} s")
    if watch.slowest_refusal_s() > _REFUSED_S:
        found.append(f"I8 a refusal took {watch.slowest_refusal_s():.2f} s")
    return found
