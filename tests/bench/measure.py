"""One scenario on one target."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from tests.bench.processes import ENDED_WITH_US, Program, cpu_seconds, memory_mib
from tests.bench.results import Measurement
from tests.bench.scenarios import Scenario
from tests.bench.targets import Plan, Target

_LONGEST_S = 90.0  # of any one run: the load generator gives up long before
_SETTLE_S = 20.0
_LOOK_S = 0.1
_IDLE = 0.1  # share of a core that a program may use and still count as idle


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A target that runs."""

    target: Target
    plan: Plan
    port: int
    program: Program | None  # None: the engine itself is asked


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement needs."""

    loadgen: Path
    load_cpu: int
    engine_port: int
    profiles: Path | None = None  # where profiles go; None: none are made

    def measure(self, live: Live, scenario: Scenario, round_: int) -> Measurement:
        """Put the load on the target; return what was seen, or why no number can be given."""
        self._prepare(scenario)
        pids = live.program.pids() if live.program else []
        idle_mib = memory_mib(pids) if scenario.sample_memory_s else None
        used_s = cpu_seconds(pids)
        words = [*self._profiler(live, scenario, pids), *self._words(live, scenario)]
        answer, peak_mib = self._run(words, scenario, pids)
        refused = str(answer.get("refused", ""))
        figures: dict[str, float] = {k: v for k, v in answer.items() if isinstance(v, int | float)}
        if live.program and live.program.pids() != pids:
            refused = refused or "one of its processes ended or began meanwhile"
        if live.program:
            figures["cpu_s"] = cpu_seconds(pids) - used_s
            if idle_mib is not None:
                figures |= {"idle_mib": idle_mib, "peak_mib": max(peak_mib, idle_mib)}
        _settle(pids)
        return Measurement(
            scenario=scenario.name,
            target=live.target.name,
            round=round_,
            figures={} if refused else figures,
            refused=refused,
        )

    def _prepare(self, scenario: Scenario) -> None:
        url = f"http://127.0.0.1:{self.engine_port}/ctl?{scenario.engine_query}"
        with urlopen(url, timeout=5) as answer:
            answer.read()

    def _profiler(self, live: Live, scenario: Scenario, pids: Collection[int]) -> list[str]:
        if self.profiles is None or not pids:
            return []
        profile = self.profiles / f"{scenario.name}-{live.target.name}.perf"
        record = f"perf record --quiet -e cpu-clock -F 999 -g -o {profile} -p"
        return [*record.split(), ",".join(map(str, pids)), "--"]

    def _words(self, live: Live, scenario: Scenario) -> list[str]:
        options = {
            "port": live.port,
            "path": f"{live.plan.prefix}{scenario.path}",
            "check": live.target.check,
            "tokens": 128,
            **scenario.load,
        }
        if scenario.load["mode"] == "gone":
            options["engine_port"] = self.engine_port
        words = [*ENDED_WITH_US, "taskset", "--cpu-list", str(self.load_cpu), str(self.loadgen)]
        if live.plan.bearer:
            words += ["--header", f"Authorization: Bearer {live.plan.bearer}"]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return words

    def _run(
        self, words: list[str], scenario: Scenario, pids: Collection[int]
    ) -> tuple[dict[str, object], float]:
        """Run the load generator; return its answer, and the most memory that was seen, MiB."""
        peak = 0.0
        deadline = time.monotonic() + _LONGEST_S
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as load:
            try:
                while True:
                    try:
                        said, _ = load.communicate(timeout=scenario.sample_memory_s or _LONGEST_S)
                        break
                    except subprocess.TimeoutExpired:
                        if time.monotonic() > deadline:
                            return {"refused": f"not over after {_LONGEST_S:.0f} s"}, peak
                        peak = max(peak, memory_mib(pids))
            finally:
                load.kill()
        try:
            answer: dict[str, object] = json.loads(said)
        except ValueError:
            answer = {"refused": f"the load generator ended with status {load.returncode}"}
        return answer, peak


def _settle(pids: Collection[int]) -> None:
    """Wait until a target is done with what its callers left behind: the next one has its core."""
    deadline = time.monotonic() + _SETTLE_S
    used = cpu_seconds(pids)
    while pids and time.monotonic() < deadline:
        threading.Event().wait(_LOOK_S)
        before, used = used, cpu_seconds(pids)
        if used - before < _IDLE * _LOOK_S:
            return
