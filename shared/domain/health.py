"""Whether an engine hangs: requests run in it, and not one step is made for too long.

`/health` cannot say: vLLM answers it with 200 as long as its processes live. A saturated engine
makes steps, however slowly it answers, and is left alone.

How many requests run in it, EngineCore tells with its outputs (vLLM 0.32: v1/metrics/loggers.py,
`SchedulerStats`). One that is frozen while idle tells nothing more, so the API server says 0 for
ever. Where the web tier has requests under way meanwhile, that is a suspicion and no more: a slow
upload or a quiet realtime session looks the same. So the engine is asked for one token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

_MOST_COUNTED_S = 30.0  # between two looks: what was longer, nobody watched (a frozen worker)
_USED_EVERY_S = 5.0  # what its load is reported by, see domain.node.HEARTBEAT_S
_MOST_UNANSWERED = 3  # in a row, at least: one lost answer is nothing
_SHORTEST_TOKEN_S, _LONGEST_TOKEN_S = 5.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What an engine says of itself at one moment."""

    running: float  # requests: vllm:num_requests_running
    steps: float | None  # since its start: vllm:iteration_tokens_total_count; None: it says none
    waiting: float = 0.0  # requests: vllm:num_requests_waiting


class Answer(Enum):
    """What an engine made of being asked for one token."""

    GIVEN = "given"  # its core has made it
    NONE = "none"  # nothing at all came back in the time it had
    UNTELLING = "untelling"  # refused before it came to the core, or the connection failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What has been seen of one engine's steps so far. Times by one monotonic clock."""

    steps: float | None = None  # as last answered; None: never yet
    running: float = 0.0  # as last answered
    waiting: float = 0.0  # so, too
    flat_s: float = 0.0  # watched, with requests running and no step made
    silent_s: float = 0.0  # watched, without an answer
    unanswered: int = 0  # questions in a row
    asked_at: float | None = None  # the last time
    unserved_s: float = 0.0  # watched since the last step: requests under way, none of them in it
    mute_s: float = 0.0  # that a request of ours had and got no answer in, since the last step
    at_work: bool = False  # its last answer showed new steps, or nothing to make steps for

    @property
    def well(self) -> bool:
        """Whether it has just shown steps, or nothing to make steps for."""
        return self.at_work and self.unanswered == 0


def felt(pulse: Pulse, vitals: Vitals | None, now: float, *, in_use: bool = False) -> Pulse:
    """Return the pulse after one more question.

    Args:
        pulse: before.
        vitals: the answer; None: there was none in time.
        now: when it was asked, or given up.
        in_use: requests were under way to it ever since the last question, says the web tier.
    """
    passed = 0.0 if pulse.asked_at is None else min(now - pulse.asked_at, _MOST_COUNTED_S)
    if vitals is None:
        silent_s = pulse.silent_s + passed if pulse.unanswered else 0.0
        unanswered = pulse.unanswered + 1
        return replace(pulse, silent_s=silent_s, unanswered=unanswered, asked_at=now)
    stepped = pulse.steps is not None and vitals.steps != pulse.steps
    flat = pulse.running > 0.0 and vitals.running > 0.0 and vitals.steps == pulse.steps
    # Who says nothing of its steps says nothing of its queue: one token could wait there for long.
    unserved = in_use and vitals.running == 0.0 and vitals.steps is not None
    before = Pulse() if stepped or vitals.running else pulse
    return Pulse(
        steps=vitals.steps,
        running=vitals.running,
        waiting=vitals.waiting,
        flat_s=pulse.flat_s + passed if flat else 0.0,
        asked_at=now,
        unserved_s=before.unserved_s + (passed if unserved and not stepped else 0.0),
        mute_s=before.mute_s,
        at_work=stepped or (vitals.running == 0.0 and before.mute_s == 0.0),
    )


def is_suspect(pulse: Pulse, grace: float) -> bool:
    """Return whether to ask an engine for one token, as nothing else can tell whether it hangs.

    Args:
        pulse: as felt so far.
        grace: seconds of requests under way, none of them in the engine, and of no step.
    """
    return pulse.unserved_s >= grace and pulse.mute_s == 0.0


def token_timeout(grace: float) -> float:
    """Return how many seconds an engine has for one token, with nothing else to do.

    Half of the grace, between 5 and 60: a large model on a CPU takes seconds, and the first request
    of its kind may have kernels compiled.
    """
    return min(max(grace / 2.0, _SHORTEST_TOKEN_S), _LONGEST_TOKEN_S)


def after_token(pulse: Pulse, answer: Answer, timeout_s: float) -> Pulse:
    """Return the pulse after the engine was asked for one token.

    Only silence counts against it. Whatever else comes begins the suspicion anew, so that an engine
    that cannot be asked is not asked all the time.

    Args:
        pulse: as felt by now, with no step since it was asked.
        answer: what came of it.
        timeout_s: how long it had.
    """
    if answer is Answer.NONE:
        return replace(pulse, mute_s=timeout_s)
    return replace(pulse, unserved_s=0.0)


def why_hung(pulse: Pulse, grace: float) -> str:
    """Return why an engine counts as hung, or "" if it does not.

    Args:
        pulse: as felt so far.
        grace: seconds.
    """
    if pulse.flat_s >= grace:
        return f"hung: {pulse.running:g} requests run in it, and no step for {pulse.flat_s:.0f} s"
    if pulse.silent_s >= grace and pulse.unanswered >= _MOST_UNANSWERED:
        return f"hung: it has not answered for {pulse.silent_s:.0f} s"
    if pulse.mute_s > 0.0:
        under_way = f"requests under way, and no step for {pulse.unserved_s:.0f} s"
        return f"hung: {under_way}, then none for one token within {pulse.mute_s:.0f} s"
    return ""


def ask_again_after(pulse: Pulse, grace: float, *, in_use: bool) -> float:
    """Return how many seconds after the last question to ask an engine again.

    An idle fleet is to cost nothing, so an engine that nobody uses is asked rarely; one that is in
    use, or looks ill, often enough that the grace is kept to within a tenth, and that each
    heartbeat tells its load.
    """
    ill = pulse.flat_s > 0.0 or pulse.unanswered > 0 or pulse.running > 0.0
    often = min(grace / 12.0, _USED_EVERY_S)
    return often if in_use or ill else max(often, 60.0)
