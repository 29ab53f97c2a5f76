"""The main process: hold the port, start EngineCore, serve once it is loaded, end the tree."""

import math
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from . import faults
from .flags import Flags, parse
from .journal import Journal
from .log import STDOUT, Log, plain, write_all
from .routes import Routes
from .server import Server, bind
from .spawn import LOADED, Orders, spawn

_UNKNOWN_MODEL: Final = "no/such-model"
_UNKNOWN_MODEL_DELAY_S: Final = 0.1  # stands for vLLM's search of the hub
_CORE_LEAVES_S: Final = 1.0  # EngineCore needs milliseconds; after this it is killed
# A signal to the whole group may end EngineCore before we hear of it ourselves.
_SIGNAL_LAG_S: Final = 0.05
_FLOOD_BLOCK: Final = 65_536
_FLOOD_SETTLES_S: Final = 1.0  # for a reader that drops what it cannot keep to keep lines again


def main(argv: Sequence[str]) -> int:
    """Run `serve` with `argv`; return the exit status once the tree is gone."""
    began = time.monotonic()
    flags = parse(argv)
    signals = StopSignals(ignore_sigterm=flags.ignore_sigterm)
    return ApiServer(flags, signals, os.environ, began).run()


class StopSignals:
    """SIGINT and SIGTERM as a flag, and as a descriptor that wakes a poll."""

    def __init__(self, *, ignore_sigterm: bool) -> None:
        """Take the signals over from now on; SIGTERM may be ignored, by the children too."""
        self.requested = False
        self.fd, wakened_by = os.pipe()  # readable once a signal came
        os.set_blocking(wakened_by, False)
        signal.set_wakeup_fd(wakened_by)
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore_sigterm else self._note)

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for a signal; return whether one came, now or before."""
        if not self.requested:
            select.select([self.fd], [], [], seconds)
        return self.requested

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True


class ApiServer:
    """One life of the main process."""

    def __init__(
        self, flags: Flags, signals: StopSignals, environ: Mapping[str, str], began: float
    ) -> None:
        self._flags = flags
        self._signals = signals
        self._environ = environ
        self._ready_at = began + flags.start_delay
        self._log = Log("APIServer")
        self._journal = Journal()

    def run(self) -> int:
        """Load, serve and stop; return the exit status."""
        flags = self._flags
        self._log.info("api_utils.py:286", f"non-default args: {flags.given}")
        if token := self._environ.get("HF_TOKEN"):  # careless, as libraries are in tracebacks
            self._log.info(
                "file_download.py:100", f"headers: {{'authorization': 'Bearer {token}'}}"
            )
        time.sleep(flags.bind_delay)  # stands for vLLM's imports, which take seconds
        try:
            listener = bind(flags.host, flags.port)
        except OSError as error:
            plain(faults.cannot_bind(error))
            return 1
        if _is_unknown(flags.model):
            if self._signals.wait(_UNKNOWN_MODEL_DELAY_S):
                return 0
            plain(faults.no_such_model(flags.model))
            return 1
        self._log.info("model.py:733", "Resolved architecture: LlamaForCausalLM")
        api_key = flags.api_key or self._environ.get("VLLM_API_KEY", "")
        keep_alive_s = float(self._environ.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5"))
        core, core_status = self._start_core()
        routes = Routes(flags, self._journal, api_key, core.pid)
        server = Server(listener, routes, self._journal, keep_alive_s)
        try:
            return self._attend(server, core_status)
        finally:
            _end(core, core_status)

    def _start_core(self) -> tuple[subprocess.Popen[bytes], int]:
        """Start EngineCore; return it with the descriptor that tells its state."""
        flags = self._flags
        status, cores_end = os.pipe()
        load_fault = "oom" if flags.oom_message else "crash" if flags.crash_while_loading else ""
        orders = Orders(
            model=flags.model,
            ready_at=self._ready_at,
            load_fault=load_fault,
            ignore_sigterm=flags.ignore_sigterm,
            setsid_child=flags.setsid_child,
            status_fd=cores_end,
        )
        core = spawn("VLLM::EngineCore", ["engine-core", orders.to_json()], pass_fds=[cores_end])
        os.close(cores_end)
        return core, status

    def _attend(self, server: Server, core_status: int) -> int:
        """React to what happens until the end; return the exit status."""
        crash_at: float | None = None
        is_loaded = False
        while True:
            timeout = None if crash_at is None else max(0.0, crash_at - time.monotonic())
            readable, _, _ = select.select([core_status, self._signals.fd], [], [], timeout)
            if self._signals.requested:
                return self._stop(server)
            if not readable:
                plain(faults.CRASHED)
                return self._flags.crash_code
            if core_status not in readable:
                continue
            if os.read(core_status, 1) != LOADED:
                return self._lose_core(server, is_loaded=is_loaded)
            is_loaded = True
            if not self._flags.never_listen:
                try:
                    self._open(server)
                except OSError as error:
                    plain(faults.cannot_bind(error))
                    return 1
                if self._flags.crash_after is not None:
                    crash_at = time.monotonic() + self._flags.crash_after

    def _open(self, server: Server) -> None:
        """Let clients in."""
        url = f"http://{self._flags.host}:{self._flags.port}"
        self._log.info("entry.py:140", f"Starting vLLM server on {url}")
        plain(f"INFO:     Started server process [{os.getpid()}]")
        plain("INFO:     Waiting for application startup.")
        server.start()
        plain("INFO:     Application startup complete.")
        if self._flags.log_flood:
            threading.Thread(target=self._flood, daemon=True).start()

    def _stop(self, server: Server) -> int:
        """Leave as asked; generations under way are cut off by the exit, as in vLLM."""
        self._log.info("launcher.py:254", "[shutdown] API server: shutdown triggered")
        server.stop_accepting()
        time.sleep(self._flags.term_delay)
        plain("INFO:     Application shutdown complete.")
        return 0

    def _lose_core(self, server: Server, *, is_loaded: bool) -> int:
        """Return the exit status after EngineCore went away."""
        if self._signals.wait(_SIGNAL_LAG_S):
            return self._stop(server)
        if is_loaded:
            self._log.error("async_llm.py:760", faults.ENGINE_DEAD)
        else:
            plain(faults.ENGINE_INIT_FAILED)
        return 1

    def _flood(self) -> None:
        """Write the megabytes of --log-flood, in large blocks of whole lines, and how it went."""
        message = f"Engine 000: Avg prompt throughput: 0.0 tokens/s {'flood ' * 8}"
        line = self._log.line("INFO", "loggers.py:271", message)
        lines = _FLOOD_BLOCK // len(line)
        megabytes = lines * len(line) / 1_000_000
        pause = megabytes / self._flags.log_rate if self._flags.log_rate else 0.0
        due, stall = time.monotonic(), 0.0
        for _ in range(math.ceil(self._flags.log_flood / megabytes)):
            began = time.monotonic()
            write_all(STDOUT, line * lines)
            stall = max(stall, time.monotonic() - began)
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))
        time.sleep(_FLOOD_SETTLES_S)
        self._log.info("loggers.py:271", f"flood over, longest stall {stall:.3f} s")


def _is_unknown(model: str) -> bool:
    return model == _UNKNOWN_MODEL or (model.startswith("/") and not Path(model).exists())


def _end(core: subprocess.Popen[bytes], core_status: int) -> None:
    """End EngineCore, which ends its Worker; SIGINT, since the tree may ignore SIGTERM."""
    core.send_signal(signal.SIGINT)
    # Readable means gone here, or LOADED in the last moment; `wait` below tells them apart.
    select.select([core_status], [], [], _CORE_LEAVES_S)
    try:
        core.wait(_CORE_LEAVES_S)
    except subprocess.TimeoutExpired:
        core.kill()
        core.wait()
