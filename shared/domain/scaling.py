"""How many replicas of a model there are to be, by the requests it has.

More at once are wanted for as long as a few seconds, and fewer for as long as a minute, before
anything is done; and fewer only if those that stay would have room to spare, which an engine in
which requests queue has not, however few they are. The last one is never
stopped for want of load, but as idle, by its timeout.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from shared.domain.catalogue import Entry
from shared.domain.instance import Instance, Status

_SPARE = 0.7
"""Of the target: what those that stay may be loaded with after one has gone, so that it does not
have to come back at the next request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRule:
    """How long a load lasts before it counts, in seconds."""

    up_after: float = 6.0  # three looks; a burst that is over sooner needs no engine that loads
    down_after: float = 60.0  # a start costs more than that
    recall: float = 1800.0  # a load that made requests queue is borne in mind: it may be the same
    retry: float = 10.0  # after a replica that has to run has failed; doubles with each
    retry_most: float = 300.0


@dataclass(frozen=True, slots=True)
class Trend:
    """What was seen of a model's load, from one look to the next. Times are a monotonic clock's."""

    above_since: float | None = None
    below_since: float | None = None
    queued_at: float | None = None  # when another was wanted because requests queued in engines
    queued_by: float = math.inf  # how many requests each replica had then: too many
    failures: int = 0  # in a row, of replicas that have to run
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is seen of a model at one look."""

    requests: int  # that it has, running and waiting
    queued: int  # those of them that wait in the engines of replicas, which have no room at all
    replicas: int  # that run or load, on nodes that are there and are not drained
    serving: int = 0  # those of them that run
    leaving: int = 0  # that run on nodes that are drained


def justified(entry: Entry, sight: Sight, too_many: float = math.inf) -> tuple[int, int]:
    """Return how many replicas the load asks for: the least, and the most that it bears out.

    Args:
        entry: of the catalogue.
        sight: what is seen.
        too_many: requests for each replica with which some have queued in engines.
    """
    needed = math.ceil(sight.requests / entry.target)
    if sight.queued:  # one more than run: those that load count as come already
        needed = max(needed, sight.serving + 1)
    least = max(needed, entry.min_replicas)
    bears = min(entry.target, too_many) * _SPARE
    most = max(least, math.ceil(sight.requests / bears), 1)
    return min(least, entry.max_replicas), min(most, entry.max_replicas)


def scale(
    entry: Entry, sight: Sight, trend: Trend, now: float, rule: ScalingRule
) -> tuple[int, Trend]:
    """Return how many replicas there are to be, and the trend as of now.

    Args:
        entry: of the catalogue.
        sight: what is seen now.
        trend: as of the look before.
        now: by a monotonic clock.
        rule: how long a load lasts before it counts.
    """
    if trend.queued_at is not None and now - trend.queued_at >= rule.recall:
        trend = replace(trend, queued_at=None, queued_by=math.inf)
    least, most = justified(entry, sight, trend.queued_by)
    current = sight.replicas
    trend = replace(
        trend,
        above_since=_since(trend.above_since, now) if least > current else None,
        below_since=_since(trend.below_since, now) if most < current else None,
    )
    if not entry.min_replicas <= current <= entry.max_replicas:
        return max(entry.min_replicas, min(current, entry.max_replicas)), trend
    if current == 0:  # whoever waits has the first one started; what leaves is replaced at once
        return min(1, sight.leaving), trend
    if trend.above_since is not None and now - trend.above_since >= rule.up_after:
        if sight.queued and sight.serving:
            by = max(1.0, sight.requests / sight.serving)
            trend = replace(trend, queued_at=now, queued_by=min(by, trend.queued_by))
        return least, replace(trend, above_since=None)
    if trend.below_since is not None and now - trend.below_since >= rule.down_after:
        return most, replace(trend, below_since=None)
    return current, trend


def may_start(trend: Trend, now: float) -> bool:
    """Return whether enough time has passed since the replica before has failed."""
    return now >= trend.retry_at


def after_failure(trend: Trend, now: float, rule: ScalingRule) -> Trend:
    """Return the trend once a replica that has to run has failed: the next one waits longer."""
    wait = min(rule.retry * 2 ** min(trend.failures, 16), rule.retry_most)
    return replace(trend, failures=trend.failures + 1, retry_at=now + wait)


def may_leave(staying: Collection[Instance], count: int) -> bool:
    """Return whether those of a drained node may leave it: others serve, or there is no room.

    Args:
        staying: the model's other replicas.
        count: how many there are to be.
    """
    in_line = any(one.status is Status.PENDING and not one.node for one in staying)
    return in_line or sum(one.serving for one in staying) >= max(1, count)


def idle_timeouts(entry: Entry, replicas: Iterable[Instance], default: int) -> dict[str, int]:
    """Return after how many idle seconds each replica is to stop: those that have to run, never.

    Args:
        entry: of the catalogue, as it is now.
        replicas: that stay.
        default: where the entry says nothing.
    """
    usual = default if entry.timeout is None else entry.timeout
    found = sorted(replicas, key=lambda one: (one.timeout != 0, not one.serving, one.created_at))
    always = len(found) if entry.pinned else entry.min_replicas
    return {one.instance_id: 0 if place < always else usual for place, one in enumerate(found)}


def surplus(replicas: Iterable[Instance], count: int) -> list[Instance]:
    """Return which replicas go where `count` are too many.

    Those that have to run go last; of the others those that load go first, then the newest.
    """
    found = [one for one in replicas if one.counts]
    found.sort(key=lambda one: (one.timeout == 0, one.serving, -one.created_at))
    return found[:count]


def _since(before: float | None, now: float) -> float:
    return now if before is None else before
