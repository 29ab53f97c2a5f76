"""The cheap deaths of a real vLLM, live: what it says today is still known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.corpus.faults import FAULTS
from tests.corpus.provoke import provoke
from tests.corpus.records import Death
from workers.causes import cause_of_death

LIVE = [name for name, fault in FAULTS.items() if fault.live]


@pytest.fixture(scope="module")
def deaths() -> dict[str, Death]:
    """Return the deaths of all cheap faults, died side by side."""
    with ThreadPoolExecutor(len(LIVE)) as pool:
        return dict(zip(LIVE, pool.map(lambda name: provoke(FAULTS[name]), LIVE), strict=True))


@pytest.mark.parametrize("name", LIVE)
def test_a_live_death_gets_its_cause(deaths: dict[str, Death], name: str) -> None:
    death = deaths[name]
    cause = cause_of_death(death.ended, death.log)
    assert cause.code == FAULTS[name].code, death.log[-20:]
    assert cause.advice
