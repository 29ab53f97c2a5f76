"""Whether an engine hangs: requests run in it, and not one step is made for too long.

`/health` cannot say: vLLM answers it with 200 as long as its processes live. A saturated engine
makes steps, however slowly it answers, and is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_MOST_COUNTED_S = 30.0  # between two looks: what was longer, nobody watched (a frozen worker)
_MOST_UNANSWERED = 3  # in a row, at least: one lost answer is nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What an engine says of itself at one moment."""

    running: float  # requests: vllm:num_requests_running
    steps: float  # since its start: vllm:iteration_tokens_total_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What has been seen of one engine's steps so far. Times by one monotonic clock."""

    steps: float | None = None  # as last answered; None: never yet
    running: float = 0.0  # as last answered
    flat_s: float = 0.0  # watched, with requests running and no step made
    silent_s: float = 0.0  # watched, without an answer
    unanswered: int = 0  # questions in a row
    asked_at: float | None = None  # the last time
    at_work: bool = False  # its last answer showed new steps, or nothing to make steps for

    @property
    def well(self) -> bool:
        """Whether it has just shown steps, or nothing to make steps for."""
        return self.at_work and self.unanswered == 0


def felt(pulse: Pulse, vitals: Vitals | None, now: float) -> Pulse:
    """Return the pulse after one more question.

    Args:
        pulse: before.
        vitals: the answer; None: there was none in time.
        now: when it was asked, or given up.
    """
    passed = 0.0 if pulse.asked_at is None else min(now - pulse.asked_at, _MOST_COUNTED_S)
    if vitals is None:
        silent_s = pulse.silent_s + passed if pulse.unanswered else 0.0
        unanswered = pulse.unanswered + 1
        return replace(pulse, silent_s=silent_s, unanswered=unanswered, asked_at=now)
    stepped = pulse.steps is not None and vitals.steps != pulse.steps
    flat = pulse.running > 0.0 and vitals.running > 0.0 and vitals.steps == pulse.steps
    return Pulse(
        steps=vitals.steps,
        running=vitals.running,
        flat_s=pulse.flat_s + passed if flat else 0.0,
        asked_at=now,
        at_work=stepped or vitals.running == 0.0,
    )


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
    return ""


def ask_again_after(pulse: Pulse, grace: float, *, in_use: bool) -> float:
    """Return how many seconds after the last question to ask an engine again.

    An idle fleet is to cost nothing, so an engine that nobody uses is asked rarely; one that is in
    use, or looks ill, often enough that the grace is kept to within a tenth.
    """
    ill = pulse.flat_s > 0.0 or pulse.unanswered > 0 or pulse.running > 0.0
    often = min(grace / 12.0, _MOST_COUNTED_S / 3.0)
    return often if in_use or ill else max(often, 60.0)
