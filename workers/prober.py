"""Asks engines over their own HTTP, in threads of its own: a question may take seconds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_AT_ONCE = 32  # a frozen engine holds a thread for seconds; threads come as they are needed

P = ParamSpec("P")
R = TypeVar("R")


class Prober(ThreadPoolExecutor):
    """Wakes who waits as soon as an answer is the one that is waited for.

    Args:
        ring: wakes the supervisor; from any thread.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        super().__init__(_AT_ONCE, thread_name_prefix="probe")
        self._ring = ring

    def ask(
        self, hoped: Callable[[R], bool], question: Callable[P, R], /, *args: P.args, **kw: P.kwargs
    ) -> Future[R]:
        """Ask; ring if the answer is as hoped. Any other one waits for the next look."""

        def hear(answered: Future[R]) -> None:
            if not answered.cancelled() and not answered.exception() and hoped(answered.result()):
                self._ring()

        future = self.submit(question, *args, **kw)
        future.add_done_callback(hear)
        return future
