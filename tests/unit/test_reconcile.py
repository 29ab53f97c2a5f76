"""What a supervisor does next: every status, all that can be left of an engine, every flag."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.instance import Desired, Exit, Instance, Status, may_become
from shared.domain.reconcile import Action, Observation, Patience, Remains, plan
from tests.builders import an_instance

NOW = 1_000.0
PATIENCE = Patience(start_stall=600.0, drain=30.0, stop=20.0, verify=10.0)
ENDED = Exit(code=1, signal=None, at=NOW)

NOT_SPAWNED, ALIVE, ENDING = Remains.NOT_SPAWNED, Remains.ALIVE, Remains.ENDING
LEFTOVERS, GONE = Remains.LEFTOVERS, Remains.GONE
NOTHING_LEFT = (NOT_SPAWNED, GONE)
SOMETHING_LEFT = (ALIVE, ENDING, LEFTOVERS)

WAIT, KILL, LOOK_AGAIN = Action.WAIT, Action.KILL, Action.LOOK_AGAIN

# Wanted: status → what is left → action, where no flag is set.
WANTED: dict[Status, dict[Remains, Action]] = {
    Status.PENDING: {
        NOT_SPAWNED: Action.SPAWN,
        ALIVE: Action.ADOPT,
        ENDING: LOOK_AGAIN,
        LEFTOVERS: KILL,
        GONE: Action.ADOPT,
    },
    Status.STARTING: {
        NOT_SPAWNED: Action.SPAWN,
        ALIVE: WAIT,
        ENDING: LOOK_AGAIN,
        LEFTOVERS: KILL,
        GONE: Action.MARK_CRASHED,
    },
    Status.RUNNING: {
        NOT_SPAWNED: Action.MARK_CRASHED,
        ALIVE: WAIT,
        ENDING: LOOK_AGAIN,
        LEFTOVERS: KILL,
        GONE: Action.MARK_CRASHED,
    },
    Status.UNHEALTHY: {
        NOT_SPAWNED: Action.MARK_CRASHED,
        ALIVE: WAIT,
        ENDING: LOOK_AGAIN,
        LEFTOVERS: KILL,
        GONE: Action.MARK_CRASHED,
    },
    Status.BACKOFF: dict.fromkeys(Remains, WAIT) | {ALIVE: Action.ADOPT, LEFTOVERS: KILL},
    Status.FAILED: dict.fromkeys(Remains, WAIT) | {LEFTOVERS: KILL},
    Status.STOP_FAILED: dict.fromkeys(SOMETHING_LEFT, WAIT)
    | dict.fromkeys(NOTHING_LEFT, Action.MARK_STOPPED),
    Status.STOPPED: dict.fromkeys(Remains, WAIT) | {LEFTOVERS: KILL},
    Status.STOPPING: dict.fromkeys(SOMETHING_LEFT, Action.TERMINATE)
    | dict.fromkeys(NOTHING_LEFT, Action.MARK_STOPPED),
}
# Asked to stop, by the web tier or the idle sweep.
UNWANTED: dict[Status, dict[Remains, Action]] = {
    **{
        status: dict.fromkeys(Remains, Action.BEGIN_STOP)
        for status in (
            Status.PENDING,
            Status.STARTING,
            Status.RUNNING,
            Status.UNHEALTHY,
            Status.BACKOFF,
            Status.FAILED,
        )
    },
    Status.STOPPING: WANTED[Status.STOPPING],
    Status.STOPPED: WANTED[Status.STOPPED],
    Status.STOP_FAILED: WANTED[Status.STOP_FAILED],
}


def planned(status: Status, remains: Remains, **seen: Any) -> Action:
    """Return the plan for a wanted instance in `status` of which `remains` is left."""
    record = an_instance(status=status, observed_generation=1)
    return plan(record, Observation(remains=remains, **seen), NOW, PATIENCE)


@pytest.mark.parametrize(("status", "remains"), list(itertools.product(Status, Remains)))
def test_a_wanted_instance(status: Status, remains: Remains) -> None:
    assert planned(status, remains) is WANTED[status][remains]


@pytest.mark.parametrize(("status", "remains"), list(itertools.product(Status, Remains)))
def test_an_instance_that_is_asked_to_stop(status: Status, remains: Remains) -> None:
    record = an_instance(status=status, desired=Desired.STOPPED, observed_generation=1)
    assert plan(record, Observation(remains=remains), NOW, PATIENCE) is UNWANTED[status][remains]


@pytest.mark.parametrize("remains", Remains)
def test_an_engine_without_a_record_is_left_alone(remains: Remains) -> None:
    assert plan(None, Observation(remains=remains), NOW, PATIENCE) is WAIT


# starting


@pytest.mark.parametrize(
    ("seen", "action"),
    [
        ({}, WAIT),
        ({"ready": True}, Action.MARK_RUNNING),
        ({"last_progress_at": NOW - 600.0}, WAIT),
        ({"last_progress_at": NOW - 600.1}, Action.GIVE_UP_START),
        ({"last_progress_at": NOW - 600.1, "ready": True}, Action.MARK_RUNNING),
        ({"terminated_at": NOW - 1.0, "last_progress_at": 0.0}, WAIT),
        ({"terminated_at": NOW - 1.0, "ready": True}, WAIT),
        ({"terminated_at": NOW - 21.1, "ready": True}, KILL),
    ],
)
def test_an_engine_that_loads(seen: dict[str, Any], action: Action) -> None:
    assert planned(Status.STARTING, ALIVE, **seen) is action


@pytest.mark.parametrize("status", [Status.RUNNING, Status.UNHEALTHY])
def test_a_running_engine_has_no_start_to_give_up(status: Status) -> None:
    assert planned(status, ALIVE, last_progress_at=0.0) is WAIT


# the end of an engine


@pytest.mark.parametrize("status", [Status.STARTING, Status.RUNNING, Status.UNHEALTHY])
def test_an_engine_that_a_dead_worker_told_to_stop_has_not_crashed(status: Status) -> None:
    assert planned(status, GONE, told_to_stop=True) is Action.BEGIN_STOP


@pytest.mark.parametrize("status", [Status.STARTING, Status.RUNNING, Status.UNHEALTHY])
def test_leftovers_go_before_the_crash_is_written(status: Status) -> None:
    assert planned(status, LEFTOVERS, told_to_stop=True) is KILL


@pytest.mark.parametrize("status", [Status.STARTING, Status.RUNNING, Status.UNHEALTHY])
def test_a_crash_is_written_once_the_exit_status_is_known(status: Status) -> None:
    assert planned(status, ENDING, exit=ENDED) is Action.MARK_CRASHED


@pytest.mark.parametrize(
    ("since", "action"),
    [(NOW - 0.3, LOOK_AGAIN), (NOW - 0.5, Action.MARK_UNHEALTHY), (NOW - 10.1, KILL)],
)
def test_a_dead_engine_whose_shim_says_nothing_gets_no_more_requests(
    since: float, action: Action
) -> None:
    assert planned(Status.RUNNING, ENDING, ending_since=since) is action


def test_a_shim_that_has_said_how_its_engine_ended_may_take_longer_to_clear_up() -> None:
    seen = {"exit": ENDED, "ending_since": NOW - 29.9}
    assert planned(Status.UNHEALTHY, ENDING, **seen) is Action.MARK_CRASHED
    assert planned(Status.UNHEALTHY, ENDING, **seen | {"ending_since": NOW - 30.1}) is KILL


def test_an_engine_of_which_something_resists_gets_no_more_requests() -> None:
    resists = {"leftovers_since": NOW - 0.5}
    assert planned(Status.RUNNING, LEFTOVERS, **resists) is Action.MARK_UNHEALTHY
    assert planned(Status.UNHEALTHY, LEFTOVERS, **resists) is KILL


@pytest.mark.parametrize("status", [*Status])
def test_what_resists_for_too_long_is_stopped_so_that_it_is_told(status: Status) -> None:
    if status in (Status.FAILED, Status.STOPPED, Status.STOPPING, Status.STOP_FAILED):
        return
    tried = Action.MARK_UNHEALTHY if status is Status.RUNNING else KILL
    assert planned(status, LEFTOVERS, leftovers_since=NOW - 30.0) is tried
    assert planned(status, LEFTOVERS, leftovers_since=NOW - 30.1) is Action.BEGIN_STOP


# back-off


@pytest.mark.parametrize("remains", NOTHING_LEFT)
def test_a_start_comes_when_the_backoff_is_over(remains: Remains) -> None:
    assert planned(Status.BACKOFF, remains) is WAIT
    assert planned(Status.BACKOFF, remains, retry_due=True) is Action.SPAWN


@pytest.mark.parametrize("remains", [ENDING, LEFTOVERS])
def test_nothing_is_started_beside_what_is_left(remains: Remains) -> None:
    assert planned(Status.BACKOFF, remains, retry_due=True) is not Action.SPAWN


# hanging


def test_a_hung_engine_leaves_the_routing_tables_then_ends() -> None:
    assert planned(Status.RUNNING, ALIVE, hung="hung") is Action.MARK_UNHEALTHY
    assert planned(Status.UNHEALTHY, ALIVE, hung="hung") is Action.END_HUNG
    assert planned(Status.UNHEALTHY, ALIVE, hung="hung", terminated_at=NOW) is WAIT


def test_an_engine_that_goes_on_after_all_runs_again() -> None:
    assert planned(Status.UNHEALTHY, ALIVE, well=True) is Action.MARK_RUNNING


def test_an_engine_that_loads_cannot_hang() -> None:
    assert planned(Status.STARTING, ALIVE, hung="hung") is WAIT


def test_a_hung_engine_is_not_waited_for_when_it_is_to_stop() -> None:
    seen = {"busy": True, "stop_begun_at": NOW, "hung": "hung"}
    assert planned(Status.STOPPING, ALIVE, **seen) is Action.TERMINATE


# what a worker wrote down and did not live to do


@pytest.mark.parametrize("status", [Status.STARTING, Status.RUNNING, Status.UNHEALTHY])
def test_an_end_that_a_dead_worker_began_is_gone_on_with(status: Status) -> None:
    assert planned(status, ALIVE, told_to_end=True, ready=True) is Action.GO_ON_ENDING
    assert planned(status, ALIVE, told_to_end=True, terminated_at=NOW) is WAIT
    assert planned(status, ALIVE, told_to_stop=True) is Action.BEGIN_STOP


# a stop that failed


def test_a_stop_that_failed_is_tried_again_when_asked() -> None:
    record = an_instance(
        status=Status.STOP_FAILED,
        desired=Desired.STOPPED,
        generation=3,
        observed_generation=2,
    )
    for remains in SOMETHING_LEFT:
        seen = Observation(remains=remains)
        assert plan(record, seen, NOW, PATIENCE) is Action.BEGIN_STOP
        tried = replace(record, observed_generation=3)
        assert plan(tried, seen, NOW, PATIENCE) is WAIT


# stopping


@pytest.mark.parametrize(
    ("seen", "action"),
    [
        ({}, Action.TERMINATE),
        ({"busy": True, "stop_begun_at": NOW - 30.0}, WAIT),
        ({"busy": True, "stop_begun_at": NOW - 30.1}, Action.TERMINATE),
        ({"busy": True, "stop_begun_at": None}, Action.TERMINATE),
        ({"busy": False, "stop_begun_at": NOW}, Action.TERMINATE),
        ({"terminated_at": NOW - 20.9}, WAIT),
        ({"terminated_at": NOW - 20.9, "busy": True}, WAIT),
        ({"terminated_at": NOW - 21.1}, KILL),
        ({"terminated_at": NOW - 30.0}, KILL),
        ({"terminated_at": NOW - 30.1}, Action.MARK_STOP_FAILED),
    ],
)
@pytest.mark.parametrize("remains", SOMETHING_LEFT)
def test_stopping_an_engine(remains: Remains, seen: dict[str, Any], action: Action) -> None:
    assert planned(Status.STOPPING, remains, **seen) is action


def test_what_nobody_else_will_end_is_not_waited_for() -> None:
    told = {"terminated_at": NOW - 0.1}
    assert planned(Status.STOPPING, LEFTOVERS, leaderless=True, **told) is KILL
    assert planned(Status.STOPPING, LEFTOVERS, **told) is WAIT  # its first process may yet end it
    assert planned(Status.STOPPING, ENDING, leaderless=True, **told) is WAIT  # so may its shim
    given_up = {"leaderless": True, "terminated_at": NOW - 30.1}
    assert planned(Status.STOPPING, LEFTOVERS, **given_up) is Action.MARK_STOP_FAILED


@pytest.mark.parametrize("seen", [{}, {"busy": True}, {"terminated_at": NOW - 1e6}])
@pytest.mark.parametrize("remains", NOTHING_LEFT)
def test_what_is_gone_is_stopped_however_long_it_took(
    remains: Remains, seen: dict[str, Any]
) -> None:
    assert planned(Status.STOPPING, remains, **seen) is Action.MARK_STOPPED


# all of it at once

_TIMES = st.none() | st.floats(0.0, 2 * NOW)
_SEEN = st.builds(
    Observation,
    remains=st.sampled_from(Remains),
    ready=st.booleans(),
    busy=st.booleans(),
    stop_begun_at=_TIMES,
    terminated_at=_TIMES,
    last_progress_at=_TIMES,
    told_to_stop=st.booleans(),
    told_to_end=st.booleans(),
    hung=st.sampled_from(["", "hung"]),
    well=st.booleans(),
    exit=st.none() | st.just(ENDED),
    ending_since=_TIMES,
    leftovers_since=_TIMES,
    leaderless=st.booleans(),
    retry_due=st.booleans(),
)
_RECORDS = st.builds(an_instance, status=st.sampled_from(Status), desired=st.sampled_from(Desired))


@given(st.none() | _RECORDS, _SEEN)
def test_a_plan_is_total_and_the_same_each_time(record: Any, seen: Observation) -> None:
    assert plan(record, seen, NOW, PATIENCE) is plan(record, seen, NOW, PATIENCE)


@given(_RECORDS, _SEEN)
def test_nothing_is_spawned_where_something_was(record: Any, seen: Observation) -> None:
    if plan(record, seen, NOW, PATIENCE) is Action.SPAWN:
        again = record.status is Status.BACKOFF and seen.retry_due
        assert seen.remains is NOT_SPAWNED or (again and seen.remains is GONE)
        assert record.desired is Desired.RUNNING


@given(_RECORDS, _SEEN)
def test_stopped_is_written_only_when_nothing_is_left(record: Any, seen: Observation) -> None:
    if plan(record, seen, NOW, PATIENCE) is Action.MARK_STOPPED:
        assert seen.remains in NOTHING_LEFT


@given(_RECORDS, _SEEN)
def test_a_crash_is_written_only_of_what_has_ended(record: Any, seen: Observation) -> None:
    if plan(record, seen, NOW, PATIENCE) is Action.MARK_CRASHED:
        assert seen.remains in NOTHING_LEFT or (seen.remains is ENDING and seen.exit)


@given(_SEEN)
def test_without_a_record_nothing_is_ever_done(seen: Observation) -> None:
    assert plan(None, seen, NOW, PATIENCE) is WAIT


@given(_RECORDS, _SEEN)
def test_a_healthy_wanted_engine_is_never_ended(record: Any, seen: Observation) -> None:
    told = seen.told_to_stop or seen.told_to_end or seen.terminated_at is not None
    if record.serving and seen.remains is ALIVE and not told and not seen.hung:
        assert plan(record, seen, NOW, PATIENCE) is WAIT


_BECOMES = {
    Action.SPAWN: Status.STARTING,
    Action.ADOPT: Status.STARTING,
    Action.MARK_RUNNING: Status.RUNNING,
    Action.MARK_UNHEALTHY: Status.UNHEALTHY,
    Action.BEGIN_STOP: Status.STOPPING,
    Action.MARK_STOPPED: Status.STOPPED,
    Action.MARK_STOP_FAILED: Status.STOP_FAILED,
    Action.MARK_CRASHED: Status.BACKOFF,
}


@given(_RECORDS, _SEEN)
def test_what_a_plan_writes_is_an_arrow_of_the_diagram(record: Any, seen: Observation) -> None:
    becomes = _BECOMES.get(plan(record, seen, NOW, PATIENCE), record.status)
    assert becomes is record.status or becomes in may_become(record.status)


@given(_RECORDS, _SEEN)
def test_nothing_is_killed_that_was_not_asked_to_end(record: Any, seen: Observation) -> None:
    if plan(record, seen, NOW, PATIENCE) is KILL:
        stuck = seen.remains is ENDING and seen.ending_since is not None
        assert seen.remains is LEFTOVERS or seen.terminated_at is not None or stuck


@given(_RECORDS, _SEEN)
def test_what_is_asked_to_stop_is_never_helped_to_run(record: Any, seen: Observation) -> None:
    if record.desired is Desired.STOPPED:
        action = plan(record, seen, NOW, PATIENCE)
        assert action not in {Action.SPAWN, Action.ADOPT, Action.MARK_RUNNING, Action.MARK_CRASHED}


# whole lives


def lived(record: Instance, seen: Observation, *, obeys: bool) -> Instance:
    """Return the record after a supervisor has looked once a second, for long enough.

    Args:
        record: at the beginning.
        seen: at the beginning.
        obeys: whether SIGTERM ends the engine; SIGKILL always does.
    """
    for second in range(200):
        now = NOW + second
        action = plan(record, seen, now, PATIENCE)
        becomes = _BECOMES.get(action, record.status)
        assert becomes is record.status or becomes in may_become(record.status)
        record = replace(record, status=becomes)
        if action is Action.BEGIN_STOP:
            seen = replace(seen, stop_begun_at=now)
        elif action is Action.TERMINATE:
            seen = replace(seen, terminated_at=now, remains=ENDING if obeys else seen.remains)
        elif action is KILL or (seen.remains is ENDING and obeys):
            seen = replace(seen, remains=GONE)
    return record


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("remains", Remains)
@pytest.mark.parametrize("status", set(Status) - {Status.STOPPED, Status.STOP_FAILED})
def test_whatever_is_asked_to_stop_is_stopped_in_the_end(
    status: Status, remains: Remains, busy: bool, obeys: bool
) -> None:
    record = an_instance(status=status, desired=Desired.STOPPED)
    after = lived(record, Observation(remains=remains, busy=busy), obeys=obeys)
    assert after.status is Status.STOPPED


@pytest.mark.parametrize(
    ("asked_at", "action"), [(NOW - 2.9, Action.WAIT), (NOW - 3.1, Action.BEGIN_STOP)]
)
def test_an_idle_stop_waits_for_the_web_tier_to_tell_of_use(
    asked_at: float, action: Action
) -> None:
    record = an_instance(status=Status.RUNNING, desired=Desired.STOPPED, stop_by="idle")
    seen = Observation(remains=Remains.ALIVE, idle_asked_at=asked_at)
    assert plan(record, seen, NOW, PATIENCE) is action


def test_an_idle_stop_of_a_hung_engine_ends_it_all_the_same() -> None:
    record = an_instance(status=Status.STOPPING, desired=Desired.STOPPED, stop_by="idle")
    seen = Observation(remains=Remains.ALIVE, busy=True, stop_begun_at=NOW - 31)
    assert plan(record, seen, NOW, PATIENCE) is Action.TERMINATE


def test_a_shim_that_never_ends_its_clearing_up_is_helped() -> None:
    record = an_instance(status=Status.RUNNING)
    seen = Observation(remains=Remains.ENDING, ending_since=NOW - 3_600)
    assert plan(record, seen, NOW, PATIENCE) is Action.KILL
