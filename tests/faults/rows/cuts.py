"""Row 33: Redis cuts connections, and nobody may be left deaf."""

from __future__ import annotations

from time import monotonic
from typing import Any

import requests

from tests.faults import bells
from tests.faults.ground import Ground
from tests.faults.row import Figures, Promise, Row
from tests.faults.timing import pause, seconds_until
from tests.integration import each_web

_CUTTING_S = 60.0


def cut_again_and_again(ground: Ground, _: int) -> Figures:
    """Row 33."""
    record = ground.create()
    task_s = came_s = went_s = 0.0
    begun = monotonic()
    while monotonic() - begun < _CUTTING_S:
        _cut(ground)
        task_s = max(task_s, bells.answered_s(ground, 30))
        other = _insisted(ground, "POST", "/instances", json={"model_name": "org/tiny"})
        ground.becomes(other["instance_id"], "running")
        # One that a web process has not heard of it asks Redis about: hence the tables, too.
        came_s = max(
            came_s,
            seconds_until(
                lambda: each_web.shortest_table(ground.fleet) == len(ground.listed()),
                30,
                what="each web process has the new instance in its table",
            ),
        )
        assert _answer_of_each(ground, other) == {200}
        _cut(ground)
        _insisted(ground, "DELETE", f"/instances/{other['instance_id']}")
        went_s = max(
            went_s,
            seconds_until(
                lambda other=other: _answer_of_each(ground, other) == {503},  # type: ignore[misc]
                30,
                what="each web process has heard of the stop",
            ),
        )
        ground.delete(other["instance_id"])
        pause(1.0)
    return {
        "slowest task": task_s,
        "new one in each table": came_s,
        "stopped one out of each table": went_s,
        "engine restarts": ground.spawns(record["instance_id"]) - 1,
    }


def _cut(ground: Ground) -> None:
    for kind in ("pubsub", "normal"):
        ground.redis.do("CLIENT", "KILL", "TYPE", kind)


def _insisted(ground: Ground, method: str, path: str, **kwargs: Any) -> Any:
    """Ask until it is accepted: a connection that was just cut may cost the first one."""
    answers: list[requests.Response] = []

    def accepted() -> bool:
        answers.append(ground.fleet.call(method, path, **kwargs))
        return answers[-1].ok

    seconds_until(accepted, 10, what=f"{method} {path} is accepted")
    return answers[-1].json()


def _answer_of_each(ground: Ground, record: Any) -> set[int]:
    assert ground.web
    path = f"/proxy/{record['instance_id']}/v1/models"
    return set(each_web.statuses(ground.fleet, ground.web, path).values())


ROWS = (
    Row(
        number=33,
        fault="Redis cuts connections",
        done=f"CLIENT KILL TYPE pubsub and normal for {_CUTTING_S:g} s, right before each create "
        "and each delete",
        promise="no worker is left deaf, and none of two web processes",
        figures=(
            Promise(name="slowest task", at_most=15, unit="s"),
            Promise(name="new one in each table", at_most=4, unit="s"),
            Promise(name="stopped one out of each table", at_most=3, unit="s"),
            Promise(name="engine restarts", at_most=0),
        ),
        run=cut_again_and_again,
        runs=1,
    ),
)
