"""The programs below the API server: EngineCore, its Worker, and a child that escapes the session.

They outlive a killed API server, as vLLM's do; EngineCore holds the Worker's stdin, and its end
tells the Worker that EngineCore is gone (vLLM: `death_pipe`).
"""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final

from . import VERSION
from .faults import CORE_START_FAILED, LOAD_FAULTS, WORKER_DIED
from .log import Log, plain
from .spawn import LOADED, Orders, spawn

# A test that forgets its orphans must not fill the machine; long enough for any test to find them.
ORPHAN_LIFE_S: Final = 600.0
_ORPHAN_CHECK_S: Final = 5.0
_SHARDS: Final = 4
_STDIN: Final = 0
# Share of the load that the Worker takes; the rest stands for vLLM's profiling and warm-up.
_WORKER_SHARE: Final = 0.8


class OrphanClock:
    """Says when a process has been without the parent it started under for too long."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._alone_since: float | None = None

    def is_over(self) -> bool:
        """Return whether the process should leave; call it every few seconds."""
        if os.getppid() == self._parent:
            return False
        if self._alone_since is None:
            self._alone_since = time.monotonic()
        return time.monotonic() - self._alone_since > ORPHAN_LIFE_S


def run_engine_core(orders: Orders) -> int:
    """Load through a Worker, report LOADED, then stay until told to leave or the Worker dies."""
    out = Log("EngineCore")
    _leave_on_signals(ignore_sigterm=orders.ignore_sigterm)
    out.info(
        "core.py:133",
        f"Initializing a V1 LLM engine (v{VERSION}) with config: "
        f"model={orders.model!r}, speculative_config=None, tokenizer={orders.model!r}",
    )
    if orders.setsid_child:
        spawn("VLLM::Escapee", ["escapee"], new_session=True)
    status, workers_end = os.pipe()
    worker = spawn(
        "VLLM::Worker",
        ["worker", orders._replace(status_fd=workers_end).to_json()],
        pass_fds=[workers_end],
        stdin=subprocess.PIPE,
    )
    os.close(workers_end)
    try:
        return _attend(orders, out, status)
    finally:
        worker.kill()
        worker.wait()


def run_worker(orders: Orders) -> int:
    """Load the weights, report LOADED, then stay until EngineCore is gone."""
    out = Log("Worker")
    _leave_on_signals(ignore_sigterm=orders.ignore_sigterm)
    began = time.monotonic()
    pause = max(0.0, orders.ready_at - began) * _WORKER_SHARE / (_SHARDS + 1)
    out.info("cpu_model_runner.py:68", f"Starting to load model {orders.model}...")
    for shard in range(_SHARDS + 1):
        _wait_unless_abandoned(pause)
        plain(_progress(shard, time.monotonic() - began))
        if orders.load_fault and shard * 2 >= _SHARDS:
            out.error("multiproc_executor.py:920", LOAD_FAULTS[orders.load_fault])
            return 1
    out.info(
        "default_loader.py:501", f"Loading weights took {time.monotonic() - began:.2f} seconds"
    )
    os.write(orders.status_fd, LOADED)
    _wait_unless_abandoned(None)
    return 0


def run_escapee() -> int:
    """Stay, deaf to SIGTERM and outside the session, until killed or orphaned for too long."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    clock = OrphanClock()
    while not clock.is_over():
        time.sleep(_ORPHAN_CHECK_S)
    return 0


def _attend(orders: Orders, out: Log, worker_status: int) -> int:
    """See the Worker through its load and watch it after; return the exit status."""
    began = time.monotonic()
    if os.read(worker_status, 1) != LOADED:
        out.error("core.py:1190", CORE_START_FAILED)
        return 1
    time.sleep(max(0.0, orders.ready_at - time.monotonic()))
    took = time.monotonic() - began
    out.info(
        "core.py:402", f"init engine (profile, create kv cache, warmup model) took {took:.2f} s"
    )
    try:
        os.write(orders.status_fd, LOADED)
    except BrokenPipeError:
        out.info("core.py:1195", "API server is gone")  # its children live on all the same
    clock = OrphanClock()
    while not clock.is_over():
        if select.select([worker_status], [], [], _ORPHAN_CHECK_S)[0]:
            out.error("multiproc_executor.py:276", WORKER_DIED)
            return 1
    return 0


def _leave_on_signals(*, ignore_sigterm: bool) -> None:
    """End by SystemExit on SIGINT, and on SIGTERM unless it is to be ignored."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        # The group and the parent may both signal: a second one must not cut the clean-up short.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore_sigterm else leave)
    signal.signal(signal.SIGINT, leave)


def _wait_unless_abandoned(seconds: float | None) -> None:
    """Wait `seconds`, or for ever; leave at once when EngineCore closes our stdin."""
    if select.select([_STDIN], [], [], seconds)[0]:
        raise SystemExit(0)


def _progress(shard: int, elapsed: float) -> str:
    """Return one state of the progress bar of tqdm."""
    rate = f"<00:00, {shard / max(elapsed, 0.001):5.2f}it/s" if shard else "<?, ?it/s"
    percent = 100 * shard // _SHARDS
    return (
        f"Loading safetensors checkpoint shards: {percent:3d}% Completed "
        f"| {shard}/{_SHARDS} [00:{int(elapsed):02d}{rate}]"
    )


def _main(role: str, *orders: str) -> int:
    """Run the child called `role`; return its exit status."""
    # The title that `spawn` gave as argv[0], for `ps` and `pgrep` too.
    Path("/proc/self/comm").write_text(sys.orig_argv[0])
    if role == "escapee":
        return run_escapee()
    run = {"engine-core": run_engine_core, "worker": run_worker}[role]
    return run(Orders.from_json(orders[0]))


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
