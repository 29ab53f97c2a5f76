"""The short rows of `make faults`, once each, on one fleet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.ground import Ground, Setup, ground
from tests.faults.matrix import MATRIX, PROMISED
from tests.faults.row import Row
from tests.faults.running import once

SHORT = [row for row in MATRIX.values() if row.short]


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(Path(tmp_path_factory.mktemp("faults")), Setup()) as stands:
        yield stands


@pytest.mark.parametrize("row", SHORT, ids=lambda row: f"row-{row.number}")
def test_a_fault_does_what_is_promised(stands: Ground, row: Row) -> None:
    # Figures are promises of a machine that is not busy: they are looked at by `make faults`.
    outcome = once(row, stands, timed=False)
    assert outcome.passed, outcome.why


def test_every_row_that_is_promised_is_there() -> None:
    assert set(MATRIX) == PROMISED


def test_short_rows_stand_on_one_ground() -> None:
    assert {row.setup for row in SHORT} == {Setup()}
