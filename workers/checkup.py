"""How an engine is, asked of itself over its own HTTP and of the web tier by its use.

Questions run in the threads of a pool; each method here returns at once, with what is known by now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from time import monotonic

from shared.domain.health import (
    Answer,
    Pulse,
    Vitals,
    after_token,
    ask_again_after,
    felt,
    is_suspect,
    token_timeout,
    why_hung,
)
from shared.domain.instance import Desired, Instance, Status
from shared.domain.node import Load
from shared.domain.reconcile import Patience
from shared.store import USE_REPORT_S
from workers import probe
from workers.prober import Prober

_READY_FOR_S = 0.5  # one question, put again and again, to an engine that loads
_TELLS_WITHIN_S = 0.15  # for web processes, which hear of a stop at once, to say what is under way
_TOLD_FOR_S = 1.6 * USE_REPORT_S  # a report of use is good for so long: the next may come late
_USED_FOR_S = 60.0  # at least: a short grace is not to run out between two looks
_USE_PAUSES_S = 5.0  # no longer between two reports, seen at looks two seconds apart: one use
_SHORTEST_ANSWER_S, _LONGEST_ANSWER_S = 0.5, 10.0
_PROBED = frozenset({Status.RUNNING, Status.UNHEALTHY})

Launch = Mapping[str, object]


class Checkup:
    """What is known of how one run of an engine is. Not thread-safe."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._ready: Future[bool] | None = None
        self._unfinished: Future[float | None] | None = None
        self._vitals: Future[Vitals | None] | None = None
        self._token: Future[Answer] | None = None
        self._pulse = Pulse()
        self._last_active: float | None = None  # as recorded; the store's clock
        self._used_at: float | None = None  # when that was seen to change; ours
        self._used_since: float | None = None  # since when it does so all the time

    def notice_use(self, record: Instance) -> None:
        """Hear from the record whether the web tier has reported use since the last look."""
        if record.last_active not in (self._last_active, record.ready_at):
            now = monotonic()
            if not self._used_within(_USE_PAUSES_S, now):
                self._used_since = now
            self._used_at = now
        self._last_active = record.last_active

    def is_ready(self, launch: Launch) -> bool:
        """Return whether the engine has answered that it serves our model."""
        if self._ready is None or self._ready.done():
            answered = self._ready.result() if self._ready else False
            self._ready = None if answered else self._ask_ready(launch)
            return answered
        return False

    def is_busy(self, record: Instance, launch: Launch, stop_begun_at: float | None) -> bool | None:
        """Return whether requests run in an engine that is to stop; None: not known yet.

        Asked of the engine and of the web tier: it knows requests that the engine has not begun.
        """
        if record.desired is Desired.RUNNING and record.status is not Status.STOPPING:
            self._unfinished = None  # nobody wants to know
            return False
        if record.ready_at is None:
            return False
        if self._unfinished is None:
            self._unfinished = self._ask_unfinished(launch)
        if self._reported_used(stop_begun_at):
            return True
        if not self._unfinished.done():
            return None
        unfinished = self._unfinished.result()
        if unfinished:
            self._unfinished = None  # ask again at the next look
        if not unfinished and stop_begun_at is not None:
            return None if monotonic() - stop_begun_at < _TELLS_WITHIN_S else False
        return bool(unfinished)

    def look(self, record: Instance, launch: Launch, patience: Patience) -> None:
        """Take the answer of the last question for its vitals, and ask the next when it is time."""
        if record.status not in _PROBED:
            return
        now = monotonic()
        if self._vitals is not None and self._vitals.done():
            in_use = self._used_since_asked(now)
            self._pulse = felt(self._pulse, self._vitals.result(), now, in_use=in_use)
            self._vitals = None
        self._test(launch, patience)
        in_use = self._used_within(max(patience.hang, _USED_FOR_S), now)
        pause = ask_again_after(self._pulse, patience.hang, in_use=in_use)
        asked_at = self._pulse.asked_at
        due = asked_at is None or now - asked_at >= pause or record.status is Status.UNHEALTHY
        if due and self._vitals is None:
            self._vitals = self._ask_vitals(launch, patience)

    def why_hung(self, patience: Patience) -> str:
        """Return why it counts as hung, or "" if it does not."""
        return why_hung(self._pulse, patience.hang)

    @property
    def well(self) -> bool:
        """Whether its last answer showed steps, or nothing to make steps for."""
        return self._pulse.well

    @property
    def load(self) -> Load:
        """What it last said of its requests; none where it never did."""
        return Load(running=round(self._pulse.running), waiting=round(self._pulse.waiting))

    def _reported_used(self, stop_begun_at: float | None) -> bool:
        if self._used_at is None or stop_begun_at is None:
            return False
        return self._used_at >= stop_begun_at and monotonic() - self._used_at < _TOLD_FOR_S

    def _used_within(self, seconds: float, now: float) -> bool:
        return self._used_at is not None and now - self._used_at < seconds

    def _used_since_asked(self, now: float) -> bool:
        since, asked_at = self._used_since, self._pulse.asked_at
        if since is None or asked_at is None:
            return False
        return since <= asked_at and self._used_within(_USE_PAUSES_S, now)

    def _test(self, launch: Launch, patience: Patience) -> None:
        """Where it is suspect, ask it for one token; take the answer."""
        timeout_s = token_timeout(patience.hang)
        if self._pulse.unserved_s == 0.0:
            self._token = None  # it has made a step: it lives, whatever becomes of that token
        elif self._token is None:
            if is_suspect(self._pulse, patience.hang):
                self._token = self._ask_token(launch, timeout_s)
        elif self._token.done():
            self._pulse = after_token(self._pulse, self._token.result(), timeout_s)
            self._token = None

    def _ask_ready(self, launch: Launch) -> Future[bool]:
        url, key = str(launch["url"]), str(launch["key"])
        return self._prober.ask(
            lambda _: True,  # a no wakes, too: to ask on at once
            probe.becomes_ready,
            url,
            key,
            _names(launch),
            _READY_FOR_S,
        )

    def _ask_unfinished(self, launch: Launch) -> Future[float | None]:
        url = str(launch["url"])
        return self._prober.ask(lambda left: not left, probe.unfinished_requests, url)

    def _ask_token(self, launch: Launch, timeout_s: float) -> Future[Answer]:
        url, key = str(launch["url"]), str(launch["key"])
        name = _names(launch)[0]
        return self._prober.ask(
            lambda answer: answer is Answer.NONE, probe.one_token, url, key, name, timeout_s
        )

    def _ask_vitals(self, launch: Launch, patience: Patience) -> Future[Vitals | None]:
        # A saturated engine takes seconds to answer, and silence means something here.
        timeout_s = min(max(_SHORTEST_ANSWER_S, patience.hang / 12.0), _LONGEST_ANSWER_S)
        return self._prober.submit(probe.vitals, str(launch["url"]), timeout_s)


def _names(launch: Launch) -> Sequence[str]:
    names = launch["names"]
    return list(map(str, names)) if isinstance(names, list) else []
