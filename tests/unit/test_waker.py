"""Sleeping until there is something to look at."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

from workers.waker import Waker

LONG_S = 20.0


@pytest.fixture
def waker() -> Iterator[Waker]:
    waker = Waker()
    yield waker
    waker.close()


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-S", "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def slept_s(sleep: Callable[[], None]) -> float:
    """Return how long a sleep took."""
    begun = monotonic()
    sleep()
    return monotonic() - begun


def test_a_sleep_ends_when_its_time_is_up(waker: Waker) -> None:
    assert 0.04 < slept_s(lambda: waker.sleep(0.05)) < 2.0


def test_a_ring_before_the_sleep_wakes(waker: Waker) -> None:
    waker.ring()
    assert slept_s(lambda: waker.sleep(LONG_S)) < 2.0


def test_a_ring_during_the_sleep_wakes(waker: Waker) -> None:
    ringer = threading.Timer(0.05, waker.ring)
    ringer.start()
    assert slept_s(lambda: waker.sleep(LONG_S)) < 2.0
    ringer.join()


def test_many_rings_wake_once(waker: Waker) -> None:
    for _ in range(1000):
        waker.ring()
    waker.sleep(LONG_S)
    assert slept_s(lambda: waker.sleep(0.05)) > 0.04


def test_the_end_of_a_watched_process_wakes(
    waker: Waker, process: "subprocess.Popen[bytes]"
) -> None:
    waker.watch([process.pid])
    process.kill()
    assert slept_s(lambda: waker.sleep(LONG_S)) < 2.0


def test_a_process_that_has_ended_before_it_is_watched_wakes(
    waker: Waker, process: "subprocess.Popen[bytes]"
) -> None:
    process.kill()
    process.wait()
    waker.watch([process.pid])
    assert slept_s(lambda: waker.sleep(LONG_S)) < 2.0
    assert slept_s(lambda: waker.sleep(0.05)) > 0.04


def test_the_end_of_a_watched_process_wakes_once(
    waker: Waker, process: "subprocess.Popen[bytes]"
) -> None:
    waker.watch([process.pid])
    process.kill()
    waker.sleep(LONG_S)
    assert slept_s(lambda: waker.sleep(0.05)) > 0.04


def test_the_end_of_a_process_that_is_watched_no_more_wakes_nobody(
    waker: Waker, process: "subprocess.Popen[bytes]"
) -> None:
    waker.watch([process.pid])
    waker.watch([])
    process.kill()
    process.wait()
    assert slept_s(lambda: waker.sleep(0.05)) > 0.04


def test_watching_again_holds_no_more_descriptors(
    waker: Waker, process: "subprocess.Popen[bytes]"
) -> None:
    waker.watch([process.pid])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts only
    for _ in range(10):
        waker.watch([process.pid])
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - counts only


def test_closing_lets_go_of_all_descriptors(process: "subprocess.Popen[bytes]") -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts only
    waker = Waker()
    waker.watch([process.pid])
    waker.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - counts only
