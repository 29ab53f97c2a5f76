"""Engines that no record knows, on a real process: how long they are only reported."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.store.memory import MemoryStore
from workers.orphans import Orphans
from workers.process_tree import ID_MARK, RUN_DIR_MARK

GRACE_S = 300.0
AT = 1_000_000.0  # what the machine's clock shows at first
NAME = "tiny-unheard2"


@pytest.fixture
def unheard(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that carries the marks of an engine of this node."""
    marks = {ID_MARK: NAME, RUN_DIR_MARK: str(tmp_path.resolve())}
    with subprocess.Popen(["sleep", "60"], env={"PATH": os.environ["PATH"]} | marks) as process:
        yield process
        process.kill()


@pytest.fixture
def orphans(tmp_path: Path) -> Orphans:
    (tmp_path / "engines").mkdir()
    return Orphans(tmp_path / "engines", MemoryStore(), GRACE_S)


def test_one_that_nobody_knows_is_ended_after_the_grace(
    orphans: Orphans, unheard: subprocess.Popen[bytes]
) -> None:
    (found,) = orphans.scan((), 50.0, AT)
    assert (found.since, found.reaped_in_s) == (AT, GRACE_S)
    (found,) = orphans.scan((), 349.0, AT + 299.0)
    assert (found.since, found.reaped_in_s) == (AT, 1.0)
    assert orphans.scan((), 350.0, AT + 300.0) == []
    assert unheard.wait(5) == -9


def test_a_clock_that_is_set_forward_ends_nobody(
    orphans: Orphans, unheard: subprocess.Popen[bytes]
) -> None:
    orphans.scan((), 50.0, AT)
    (found,) = orphans.scan((), 60.0, AT + 3_600.0)
    assert found.reaped_in_s == GRACE_S - 10.0
    assert unheard.poll() is None
