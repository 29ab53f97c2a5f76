"""Which replica of a model a request goes to. Pure.

A choice looks at a few replicas only, however many there are: it is made for each request. They
stand on a circle, each at a point that its id gives, so that one more or one less changes what is
looked at for few keys.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from shared.domain.instance import Instance

LOOKED_AT = 16
"""The most replicas that a choice looks at: of so many the least busy one is hardly ever busy."""

_ANYHOW = 4  # requests that a sticky choice may put on one replica, however idle the others are
_BOUND = 1.25  # times the average load: what a sticky choice may put on one replica
_POINTS = 2**64

Load = Callable[[str], int]
"""Requests that an instance, by its id, has: running and waiting."""


class Routing(StrEnum):
    """By what a replica is chosen."""

    LEAST = "least"  # the fewest requests
    PREFIX = "prefix"  # the same beginning of a prompt goes where it was before, for its cache
    SESSION = "session"  # the same X-Session-ID goes where it was before


@dataclass(frozen=True, slots=True)
class Replica:
    """A running instance of a model, and its point on the circle."""

    instance: Instance
    point: int


def replica_of(instance: Instance) -> Replica:
    """Return the instance as a replica."""
    return Replica(instance, point_of(instance.instance_id.encode()))


def point_of(key: bytes) -> int:
    """Return the point on the circle that `key` gives; the same in every process."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def from_point(replicas: Sequence[Replica], point: int) -> Sequence[Replica]:
    """Return the replicas to look at for a key: from its point on, round the circle.

    Args:
        replicas: by their points, ascending.
        point: of the key.
    """
    return _window(replicas, bisect_left(replicas, point, key=lambda replica: replica.point))


def from_turn(replicas: Sequence[Replica], turn: int) -> Sequence[Replica]:
    """Return the replicas to look at in the given turn; each is the first one equally often."""
    return _window(replicas, turn % len(replicas)) if replicas else replicas


def least(replicas: Sequence[Replica], load: Load) -> Replica:
    """Return the replica with the fewest requests; of several such the first."""
    chosen, fewest = replicas[0], load(replicas[0].instance.instance_id)
    for replica in replicas[1:]:
        if fewest <= 0:
            break  # nobody has fewer: the usual end
        requests = load(replica.instance.instance_id)
        if requests < fewest:
            chosen, fewest = replica, requests
    return chosen


def sticky(replicas: Sequence[Replica], point: int) -> Replica:
    """Return the replica for a key, which stays the same as long as that replica is there.

    Rendezvous hashing: each replica draws a number for the key, the highest wins; so keys of one
    that has gone are spread over all others, and those of the others stay.
    """
    return max(replicas, key=lambda replica: _drawn(replica, point))


def bounded(replicas: Sequence[Replica], point: int, load: Load) -> Replica:
    """Return the replica for a key, or the next one where that has too much of the load.

    Too much is over a quarter above the average, this request counted ("Consistent Hashing with
    Bounded Loads", Mirrokni et al., 2016), and over four: an engine takes some side by side gladly,
    and with few requests under way the average says nothing.
    """
    loads = {replica.point: load(replica.instance.instance_id) for replica in replicas}
    most = max(_ANYHOW, -(-_BOUND * (sum(loads.values()) + 1) // len(loads)))
    fitting = [replica for replica in replicas if loads[replica.point] < most]
    return sticky(fitting or replicas, point)


def _window(replicas: Sequence[Replica], first: int) -> Sequence[Replica]:
    count = min(len(replicas), LOOKED_AT)
    beyond = max(0, first + count - len(replicas))
    return (*replicas[first : first + count], *replicas[:beyond])


def _drawn(replica: Replica, point: int) -> int:
    """Return what a replica draws for a key: both are hashes, so mixing them is enough."""
    mixed = (replica.point ^ point) * 0x9E3779B97F4A7C15 % _POINTS
    return (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 % _POINTS
