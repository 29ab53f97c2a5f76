"""docs/performance.md, from the results of a run. Pure, but for what it is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.disturbance import Disturbance
from tests.bench.goals import BASE, GOALS, OURS, Goal
from tests.bench.results import Results
from tests.bench.scenarios import BY_NAME as SCENARIOS
from tests.bench.summary import figures_of
from tests.bench.targets import BY_NAME as TARGETS
from tests.bench.targets import Check

BEGIN_BY_HAND = "<!-- by hand: kept when this file is written again -->"
END_BY_HAND = "<!-- end of what is kept -->"
_BY_HAND = re.compile(f"{re.escape(BEGIN_BY_HAND)}\n(.*?){re.escape(END_BY_HAND)}", re.DOTALL)
_PEERS = ("vllm_router", "litellm", "view")

_CHECKED = {
    Check.BYTES: "every byte of every answer, and of every request as the engine got it",
    Check.ANSWER: "every byte of every answer; not its requests, which it writes anew (their "
    "seed, and uploads to the byte)",
    Check.TEXT: "only the text of answers, its order and its end, which request it answers, and "
    "the size of uploads: it writes requests and answers anew",
}

_CAVEATS = """\
- One machine, loopback, a synthetic engine: what a proxy costs, not how fast a model answers.
- Work is not equal. Ours finds the instance in the path, checks an API key, sets headers, counts
  and reports activity, and never reads the body (`ours_v1` does: the model stands there, and a
  replica of it is chosen); vllm-router and LiteLLM read the model's name out of the body, too, and
  offer retries and balancing; nginx does nothing but pass on.
- What is measured has one core to itself; the engine, the client and Redis share another one.
  `direct`, with no proxy, is the limit of those two: close to it, a proxy would look slower than it
  is.
- The peers run as they are installed, one process each, no key asked for (LiteLLM, vllm-router),
  requests not logged. Ours was tuned on this very benchmark.
- CPU is what the target's processes used by the kernel's clock, divided by all answers or chunks of
  a run, those of its warm-up too. Memory is the proportional set size (Pss) of all its processes,
  the most that was seen during a run, less what it was right before; of all rounds, the one that
  added most. What a program keeps from an earlier scenario it does not add again.
- Delay is one-way, from the engine's write to the client's read, so it has in it what `direct` has.
- For 1 and 2 web processes the proxy may use both cores, which the engine and the client use as
  well: CPU per request can be compared, requests/s cannot.
- A run in which one answer failed, was cut off, came late or differed gives no number; after two
  such runs a target is not tried again in that scenario.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What else the report says about a run."""

    date: str
    rounds: int
    minutes: float
    disturbance: Disturbance
    machine: Mapping[str, str]
    versions: Mapping[str, str]


def text(results: Results, of: Circumstances, by_hand: str, lifecycle: str = "") -> str:
    """Return the whole file.

    Args:
        results: of a run.
        of: when, where and how it ran.
        by_hand: what somebody wrote into the file that this replaces.
        lifecycle: the section of that name in it, see `lifecycle.report`.
    """
    parts = [
        _introduction(of),
        _goals(results),
        f"## What stands in between\n\n{BEGIN_BY_HAND}\n{by_hand}{END_BY_HAND}",
        lifecycle,
        _medians(results),
        _how(results, of),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def by_hand(previous: str) -> str:
    """Return what somebody wrote into the marked section of `previous`, to the byte."""
    found = _BY_HAND.search(previous)
    return found[1] if found else "\n"


def _introduction(of: Circumstances) -> str:
    return f"""\
# Performance

Written by `make bench` on {of.date}; to be written again by it, not edited, except between the
marks below. Ours is the whole web tier, everything on: an API key checked on every request, the
routing table live from Redis, activity reported, metrics counted, request ids set. Medians of
{of.rounds} rounds; in each round every target in turn. Ratios are to nginx where nothing else is
said, round by round, and the median of those."""


def _goals(results: Results) -> str:
    peers = [name for name in _PEERS if any(m.target == name for m in results)]
    head = ["work", "promised", "hoped for", "measured", "", *(f"`{name}`" for name in peers)]
    rows = [_goal(goal, results, peers) for goal in GOALS]
    return "## Against what is promised\n\n" + _table(head, rows)


def _goal(goal: Goal, results: Results, peers: list[str]) -> list[str]:
    value = goal.measured(results, goal.target)
    kept = "kept" if value is not None and goal.kept(value) else "**missed**"
    others = [_cell(goal, results, name) if goal.target == OURS else "" for name in peers]
    return [
        goal.work,
        goal.says,
        goal.show(goal.hoped) if goal.hoped is not None else "",
        _cell(goal, results, goal.target),
        kept if results.of(goal.scenario, goal.target) else "",
        *others,
    ]


def _cell(goal: Goal, results: Results, target: str) -> str:
    if not results.of(goal.scenario, target):
        able = goal.scenario not in TARGETS[target].unable
        return "not measured" if able else "cannot"
    if results.refusals(goal.scenario, target):
        return "no number"
    if results.missed(goal.scenario, target):
        return "not within 4 s"
    value = goal.measured(results, target)
    return "no number" if value is None else goal.show(value)


def _medians(results: Results) -> str:
    parts = [
        "## Medians\n\nTimes in µs; memory in MiB, the most of all rounds; in brackets: to nginx."
    ]
    for name in dict.fromkeys(m.scenario for m in results):
        targets = list(dict.fromkeys(m.target for m in results if m.scenario == name))
        targets.sort(key=list(TARGETS).index)
        figures = [
            figure
            for figure in figures_of(name)
            if any(results.value(name, target, figure) is not None for target in targets)
        ]
        rows = [[f"`{target}`", *_figures(results, name, target, figures)] for target in targets]
        parts.append(f"### {name}: {SCENARIOS[name].says}\n\n{_table(['', *figures], rows)}")
        parts.append("\n".join(_explained(results, name)))
    return "\n\n".join(part for part in parts if part)


def _explained(results: Results, scenario: str) -> list[str]:
    """Return why which targets have no numbers here."""
    targets = dict.fromkeys(m.target for m in results)
    refused = [
        f"- `{target}`: no number: {why}"
        for target in targets
        for why in dict.fromkeys(results.refusals(scenario, target))
    ]
    unable = [
        f"- `{target}`: {TARGETS[target].unable[scenario]}"
        for target in targets
        if scenario in TARGETS[target].unable
    ]
    return refused + unable


def _figures(results: Results, scenario: str, target: str, figures: Sequence[str]) -> list[str]:
    if results.refusals(scenario, target):
        return ["no number", *[""] * len(figures)][: max(1, len(figures))]
    cells = []
    for figure in figures:
        value = results.value(scenario, target, figure)
        ratio = results.ratio(scenario, target, BASE, figure)
        shown = "" if value is None else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
        cells.append(shown if ratio is None or target == BASE else f"{shown} ({ratio:.2f})")
    return cells


def _how(results: Results, of: Circumstances) -> str:
    names = list(dict.fromkeys(m.target for m in results))
    targets = "\n".join(
        f"- `{name}`: {TARGETS[name].says}. Checked: {_CHECKED[TARGETS[name].check]}."
        for name in sorted(names, key=list(TARGETS).index)
    )
    machine = "; ".join(f"{name}: {value}" for name, value in of.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in of.versions.items())
    return f"""\
## How it was measured

{targets}

- Machine: {machine}. Meanwhile other programs used {of.disturbance.others:.1%} of its CPU time, and
  the host gave {of.disturbance.stolen:.1%} of it to other machines.
- Versions: {versions}.
- The run took {of.minutes:.0f} minutes. Its parts: tests/bench.

## Read with care

{_CAVEATS}"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
