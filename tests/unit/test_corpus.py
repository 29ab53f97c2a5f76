"""Each real death of a real vLLM gets its cause; so does each that only a GPU gives."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from shared.domain.cause import Cause
from shared.domain.instance import Exit
from tests.corpus.faults import FAULTS
from tests.corpus.records import DEATHS, Death, read
from workers.causes import cause_of_death
from workers.causes.codes import CAUSES

RECORDED = {path.stem: read(path) for path in sorted(DEATHS.glob("*.log"))}
GPU: list[dict[str, Any]] = tomllib.loads((DEATHS.parent / "gpu.toml").read_text())["death"]
ASKED_FOR = {
    "unknown_flag",
    "no_such_folder",
    "cache_too_small_for_the_context",
    "truncated_weights",
    "sleep_mode",
    "port_taken",
    "killed",
    "cgroup_limit",
}


def judged(death: Death) -> Cause:
    """Return the cause that the catalogue gives."""
    killed = "the kernel killed VLLM::Worker (pid 1) for want of memory" if death.oom_killed else ""
    return cause_of_death(
        death.ended, death.log[-1000:], was_ready=death.was_ready, out_of_memory=killed
    )


@pytest.mark.parametrize("name", RECORDED)
def test_a_real_death_gets_its_cause(name: str) -> None:
    assert judged(RECORDED[name]).code == RECORDED[name].cause


@pytest.mark.parametrize("name", RECORDED)
def test_its_reason_is_one_line_of_the_log_and_its_advice_one_line(name: str) -> None:
    cause = judged(RECORDED[name])
    assert "\n" not in cause.reason + cause.advice
    assert 20 < len(cause.advice) < 200
    assert cause.reason.startswith("engine ")


@pytest.mark.parametrize("name", RECORDED)
def test_it_is_the_one_that_the_fault_was_made_for(name: str) -> None:
    assert RECORDED[name].cause == FAULTS[name].code


def test_every_fault_is_recorded() -> None:
    assert set(RECORDED) == set(FAULTS)


def test_the_deaths_that_are_promised_are_recorded() -> None:
    assert set(RECORDED) >= ASKED_FOR


@pytest.mark.parametrize("death", GPU, ids=lambda death: f"{death['cause']}-{death['source'][:30]}")
def test_a_death_that_only_a_gpu_gives_gets_its_cause(death: dict[str, Any]) -> None:
    ended = Exit(code=death["code"], signal=None, at=0.0)
    found = cause_of_death(ended, death["log"], was_ready=death.get("was_ready", False))
    assert found.code == death["cause"]
    assert death["source"]


def test_the_log_of_an_engine_that_served_tells_no_fault() -> None:
    ended = Exit(code=1, signal=None, at=0.0)
    assert cause_of_death(ended, RECORDED["killed"].log).code == "unknown"


def test_every_cause_of_the_corpus_is_a_known_one() -> None:
    told = {death.cause for death in RECORDED.values()} | {death["cause"] for death in GPU}
    assert told <= set(CAUSES)
