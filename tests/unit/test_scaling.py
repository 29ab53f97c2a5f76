"""How many replicas there are to be, look by look."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.catalogue import Entry
from shared.domain.instance import Instance, Status
from shared.domain.scaling import (
    ScalingRule,
    Sight,
    Trend,
    after_failure,
    justified,
    may_start,
    scale,
    surplus,
)
from tests.builders import an_instance

RULE = ScalingRule(up_after=6, down_after=60, retry=10, retry_most=300)
LOOK_S = 2.0


def an_entry(least: int = 0, most: int = 4) -> Entry:
    """Return a model whose replicas are meant for ten requests at once."""
    return Entry(name="chat", model="org/tiny", min_replicas=least, max_replicas=most, target=10)


@dataclass
class Model:
    """A model whose replicas come up at once, but for those that load."""

    entry: Entry = field(default_factory=an_entry)
    replicas: int = 1
    loading: int = 0  # those of them that have not come up
    now: float = 0.0
    trend: Trend = field(default_factory=Trend)

    def under(
        self, requests: int, seconds: float, queued: int = 0, bears: int = 1_000
    ) -> list[int]:
        """Return how many replicas there are after each look, under that load.

        Requests queue: so many, or those beyond what each replica bears.
        """
        seen = []
        for _ in range(int(seconds / LOOK_S)):
            sight = Sight(
                requests=requests,
                queued=max(queued, requests - bears * (self.replicas - self.loading)),
                replicas=self.replicas,
                serving=self.replicas - self.loading,
            )
            self.replicas, self.trend = scale(self.entry, sight, self.trend, self.now, RULE)
            self.now += LOOK_S
            seen.append(self.replicas)
        return seen


def test_a_load_that_lasts_has_as_many_replicas_as_it_needs() -> None:
    assert Model().under(35, 10) == [1, 1, 1, 4, 4]


def test_a_burst_that_is_over_soon_has_no_replica_started() -> None:
    model = Model()
    assert set(model.under(35, 6) + model.under(5, 2) + model.under(35, 6)) == {1}


def test_no_more_replicas_than_the_catalogue_allows() -> None:
    assert Model().under(1_000, 20)[-1] == 4


def test_a_replica_goes_only_after_a_minute_with_room_to_spare() -> None:
    model = Model(replicas=3)
    assert set(model.under(9, 60)) == {3}
    assert model.under(9, 4) == [2, 2]


def test_a_load_just_below_what_fewer_replicas_can_bear_changes_nothing() -> None:
    assert set(Model(replicas=2).under(9, 300)) == {2}  # 9 of 10 would not be room to spare


def test_the_last_replica_is_not_stopped_for_want_of_load() -> None:
    assert Model(replicas=2).under(0, 200)[-1] == 1


def test_where_nothing_runs_whoever_waits_has_the_first_one_started() -> None:
    assert set(Model(replicas=0).under(50, 20)) == {0}


def test_requests_that_queue_in_engines_ask_for_one_more() -> None:
    assert Model().under(8, 8, queued=3)[-1] == 2


def test_one_that_loads_already_is_waited_for_where_requests_queue() -> None:
    assert set(Model(replicas=2, loading=1).under(8, 60, queued=3)) == {2}


def test_replicas_that_have_to_run_are_there_at_once() -> None:
    assert Model(an_entry(least=2), replicas=0).under(0, 2) == [2]


def test_a_catalogue_that_allows_fewer_has_the_others_stopped_at_once() -> None:
    assert Model(an_entry(most=2), replicas=4).under(100, 2) == [2]


@given(st.integers(0, 500), st.integers(0, 6), st.integers(0, 6), st.integers(1, 6))
def test_what_the_load_asks_for_is_within_bounds(
    requests: int, replicas: int, least: int, more: int
) -> None:
    entry = an_entry(least, least + more)
    sight = Sight(requests=requests, queued=0, replicas=replicas)
    needed, borne = justified(entry, sight)
    assert entry.min_replicas <= needed <= borne <= entry.max_replicas


@given(st.integers(0, 60), st.integers(1, 12))
def test_a_steady_load_comes_to_rest(requests: int, bears: int) -> None:
    model = Model()
    model.under(requests, 400, bears=bears)
    assert len(set(model.under(requests, 400, bears=bears))) == 1


def test_one_that_was_started_because_requests_queued_stays_while_the_load_does() -> None:
    model = Model()
    assert model.under(6, 10, bears=4)[-1] == 2  # 6 are fewer than its target, 10
    assert set(model.under(6, 600, bears=4)) == {2}
    assert model.under(3, 100, bears=4)[-1] == 1


def test_what_made_requests_queue_is_forgotten_after_half_an_hour() -> None:
    model = Model()
    model.under(6, 10, bears=4)
    assert model.under(6, 1_900)[-1] == 1  # the requests are smaller now


def test_a_replica_that_fails_again_and_again_is_tried_ever_later() -> None:
    trend, waits = Trend(), []
    for _ in range(7):
        trend = after_failure(trend, 0.0, RULE)
        waits.append(trend.retry_at)
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert not may_start(trend, 299.0)
    assert may_start(trend, 300.0)


@pytest.mark.parametrize(("count", "gone"), [(0, []), (1, ["loads"]), (2, ["loads", "new"])])
def test_what_loads_goes_first_then_the_newest_and_last_what_has_to_run(
    count: int, gone: list[str]
) -> None:
    def replica(name: str, at: float, status: Status, timeout: int = 60) -> Instance:
        return an_instance(instance_id=name, created_at=at, status=status, timeout=timeout)

    replicas = [
        replica("always", 5.0, Status.RUNNING, 0),
        replica("old", 1.0, Status.RUNNING),
        replica("new", 2.0, Status.RUNNING),
        replica("loads", 1.5, Status.STARTING),
        replica("failed", 9.0, Status.FAILED),
    ]
    assert [one.instance_id for one in surplus(replicas, count)] == gone
