"""What follows a crash: when the engine is started again, or that it is given up.

The waits double: 10, 20, 40, 80, 160, 300, 300 … seconds with the settings as they come. Who ran
for long begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared.domain.cause import Cause
from shared.domain.instance import Instance

_HOUR_S = 3_600.0
_JITTER = 0.1  # of a wait, either way: engines that died together do not start together
_MOST_DOUBLINGS = 32  # more would only make the number too large to hold


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartRule:
    """How often, and how soon, crashed engines are started again. Times in seconds."""

    backoff: float  # wait after the first crash
    backoff_max: float
    reset_after: float  # running for so long, the crashes before are forgiven
    max_failed_starts: int  # crashes in a row, none of them ever ready
    max_per_hour: int  # crashes, ready or not


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a crashed instance, and what its record says of its crashes."""

    retry_in: float | None  # seconds; None: it is given up
    why: str  # "" or, of one that is given up, the rule that says so
    crashes: tuple[float, ...]
    failed_starts: int
    backoff_step: int
    first_cause: str
    first_reason: str


def after_crash(
    record: Instance, cause: Cause, now: float, rule: RestartRule, chance: float
) -> Verdict:
    """Return what becomes of an instance whose engine has crashed.

    Args:
        record: as it was until now; `ready_at` is of the run that crashed.
        cause: of this crash.
        now: epoch seconds by the store's clock, as the times in the record.
        rule: what the operator has set.
        chance: from 0 to 1, of the jitter.
    """
    ran_for = 0.0 if record.ready_at is None else now - record.ready_at
    if ran_for >= rule.reset_after > 0.0:
        record = replace(record, crashes=(), failed_starts=0, backoff_step=0, first_cause="")
    crashes = (*(at for at in record.crashes if now - _HOUR_S < at <= now), now)
    failed_starts = record.failed_starts + 1 if record.ready_at is None else 0
    why = _why_no_more(cause, failed_starts, len(crashes), rule)
    wait = min(rule.backoff * 2 ** min(record.backoff_step, _MOST_DOUBLINGS), rule.backoff_max)
    is_first = not record.first_cause
    return Verdict(
        retry_in=None if why else wait * (1.0 + _JITTER * (2.0 * chance - 1.0)),
        why=why,
        crashes=crashes,
        failed_starts=failed_starts,
        backoff_step=record.backoff_step + 1,
        first_cause=cause.code if is_first else record.first_cause,
        first_reason=cause.reason if is_first else record.first_reason,
    )


def seconds_to_retry(retry_at: float | None, now: float, rule: RestartRule) -> float:
    """Return in how many seconds an instance in back-off starts again; 0: now.

    A time further away than any wait was written by a clock that has been set back since.

    Args:
        retry_at: as recorded.
        now: by the store's clock, as `retry_at`.
        rule: what the operator has set.
    """
    left = 0.0 if retry_at is None else retry_at - now
    return left if 0.0 < left <= rule.backoff_max * (1.0 + _JITTER) else 0.0


def _why_no_more(cause: Cause, failed_starts: int, crashes: int, rule: RestartRule) -> str:
    if cause.permanent:
        return "another start would end the same way"
    if failed_starts >= rule.max_failed_starts:
        return f"given up after {failed_starts} starts in a row that were never ready"
    if crashes >= rule.max_per_hour:
        return f"given up after {crashes} crashes within an hour"
    return ""
