"""One engine of this node, as its supervisor holds it: look at it, spawn it, end it.

Everything that matters is in the run directory and in the process table, so a new worker that
finds the directory takes over where the last one stopped.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from shared.domain.instance import Exit, Instance, Status
from shared.domain.reconcile import Observation, Patience, Remains
from shared.settings import ROOT
from shared.store import Store
from workers import gpus, ports, process_tree
from workers.checkup import Checkup
from workers.downloads import downloaded, hub_folder
from workers.loading import Loading
from workers.log_tail import LogTail
from workers.prober import Prober
from workers.process_io import bytes_moved
from workers.process_tree import Identity, Marks
from workers.redaction import blotted, secrets_in
from workers.run_directory import RunDirectory
from workers.stages import STAGES, Load

_SHIM_WORDS = 4096  # bytes at the end of what a shim said
_SHIM_STARTS_S = 5.0  # a shim without a lock is still being born for so long, not dead
_KILL_S = 1.0  # one turn of killing; the supervisor comes back while anything is left
_PORT_CLOSES_S = 10.0  # then whoever holds the port is a stranger: nothing of ours runs
_LOOK_THROUGH_S = 30.0  # between looks for processes of an engine that was seen to be gone
_IO_EVERY_S = 5.0  # between looks at what a loading engine reads and writes: it means a look at all
LAST_LOG_LINES = 50  # kept in the record of one that crashed
LINES_READ_FOR_CAUSE = 1_000  # vLLM's tracebacks are long, and the first of them has the cause
STOPPED = str(Status.STOPPED)
BACKOFF = str(Status.BACKOFF)


@dataclass(slots=True)
class _Since:
    """When things were first seen of the present run, by our monotonic clock."""

    last_progress: float
    io_read: float = -math.inf
    stop_begun: float | None = None
    terminated: float | None = None
    tree_gone: float | None = None
    gone: float | None = None
    ending: float | None = None
    leftovers: float | None = None
    idle_asked: float | None = None


class Engine:
    """One engine. Not thread-safe: only the supervisor's thread calls it; probes run elsewhere."""

    def __init__(self, instance_id: str, run: RunDirectory, prober: Prober) -> None:
        self.instance_id = instance_id
        self.loading = Loading()
        self.last_lines: list[str] = []
        self._unsent: list[str] = []  # read, and not in the store yet
        self._run = run
        self._prober = prober
        self._tail = LogTail(run, self._blotted, self.run)
        self._secrets: frozenset[str] | None = None  # those it was started with; None: not read yet
        self._shim: subprocess.Popen[bytes] | None = None
        self._since = _Since(monotonic())
        self._checkup = Checkup(prober)
        self._seen_alive = False  # at the last look
        self._recorded: Identity | None = None  # the first process, as the record has it

    def resume(self, record: Instance, last_lines: list[str]) -> None:
        """Go on from what another worker had recorded of the load."""
        if record.stage in STAGES:
            load = Load(record.stage, record.progress, record.stage_detail)
            self.loading = Loading(load, self.age_s)
        self.last_lines = last_lines

    # what it looks like

    @property
    def age_s(self) -> float:
        """Seconds since it was spawned; 0 if it was not."""
        leader = self.leader
        return 0.0 if leader is None else leader.age_s

    @property
    def holds(self) -> bool:
        """Whether a shim of this engine lives."""
        return self._run.lock_holder() is not None

    @property
    def spawned_here(self) -> bool:
        """Whether this worker has spawned it, and so has seen all of its start."""
        return self._shim is not None

    @property
    def launch(self) -> dict[str, object] | None:
        """What it was last started with; None if it never was."""
        return self._run.read("launch")

    @property
    def run(self) -> int:
        """The number of its last run; 0 before the first."""
        return int(str((self.launch or {}).get("run", 0)))

    @property
    def stop_note(self) -> dict[str, str] | None:
        """Why it was told to end and what it is to become; None if it was not."""
        return self._run.read("stop", self.run)

    @property
    def rebooted(self) -> bool:
        """Whether the machine has been started anew since its last run began."""
        state = self._run.read("state", self.run)
        return state is not None and state["boot_id"] != process_tree.boot_id()

    @property
    def shim_ended_well(self) -> bool:
        """Whether its shim is known to have come to its own end: how the engine ended, it knew."""
        return self._shim is not None and self._shim.poll() == 0

    @property
    def shim_words(self) -> str:
        """The last line that the shim of its last run had to say itself; "" for none."""
        try:
            said = self._run.shim_log(self.run).read_bytes()[-_SHIM_WORDS:]
        except OSError:
            return ""
        lines = said.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    @property
    def leader(self) -> Identity | None:
        """The engine's first process; None until it is spawned, or since another boot."""
        state = self._run.read("state", self.run)
        if state is None:
            return self._recorded
        if state["boot_id"] != process_tree.boot_id():
            return None
        return Identity(state["pid"], state["start_time"])

    def observe(self, record: Instance, patience: Patience) -> Observation:
        """Return what the engine looks like now; asks it nothing that could block."""
        self._recorded = _recorded(record)
        if record.status is Status.STOPPING:
            self.begin_stop()  # its patience begins anew where another worker began the stop
        since, checkup = self._since, self._checkup
        since.idle_asked = _since(since.idle_asked, record.about_to_stop_as_idle)
        checkup.notice_use(record)
        remains = self._remains(record)
        alive = self._seen_alive = remains is Remains.ALIVE
        if alive and record.status is Status.STARTING:
            self._follow_io()
        since.ending = _since(since.ending, remains is Remains.ENDING)
        since.leftovers = _since(since.leftovers, remains is Remains.LEFTOVERS)
        launch = (self.launch or {}) if alive else {}
        if launch:
            checkup.look(record, launch, patience)
        outcome = (self.stop_note or {}).get("outcome")
        return Observation(
            remains=remains,
            ready=alive and record.status is Status.STARTING and checkup.is_ready(launch),
            hung=checkup.why_hung(patience) if alive else "",
            well=checkup.well,
            exit=self._exit(),
            busy=checkup.is_busy(record, launch, since.stop_begun) if launch else False,
            idle_asked_at=since.idle_asked,
            ending_since=since.ending,
            leftovers_since=since.leftovers,
            told_to_stop=outcome == STOPPED,
            told_to_end=outcome not in (None, STOPPED),
            stop_begun_at=since.stop_begun,
            terminated_at=since.terminated,
            last_progress_at=since.last_progress,
        )

    def read_log(self, *, to_the_end: bool = False) -> list[str]:
        """Return new log lines, with secrets blotted out; follows the load in them."""
        lines = self._tail.read_to_the_end() if to_the_end else self._tail.read()
        if lines:
            if self.loading.read(lines, self.age_s):
                self._since.last_progress = monotonic()
            self.last_lines = [*self.last_lines, *lines][-LINES_READ_FOR_CAUSE:]
        return lines

    def pass_log_on(self, lines: Sequence[str], store: Store) -> None:
        """Add lines that were read to the log in the store.

        Raises:
            StoreUnavailable: they go with the next ones.
        """
        self._unsent += lines
        if self._unsent:
            store.append_log(self.instance_id, self._tail.number, self._unsent)
            self._unsent = []
            self._log_passed_on()

    def pass_log_on_again(self, store: Store) -> None:
        """Have the log read again, where the store has nothing of it (any more)."""
        if not store.log(self.instance_id, self._tail.number, 1):
            self._tail.begin_again()

    def _log_passed_on(self) -> None:
        with suppress(OSError):  # a full disk: at worst the next worker passes them on again
            self._tail.remember()

    def watched_pids(self) -> list[int]:
        """Return the pids whose end is news: the first process and the shim."""
        leader, shim = self.leader, self._run.lock_holder()
        # A zombie has no news, unless it has ended since the last look at it: told once.
        news, self._seen_alive = self._seen_alive, False
        running = leader.pid if leader and (news or leader.alive) else None
        return [pid for pid in (running, shim) if pid is not None]

    # what can be done to it

    def spawn(self, launch: dict[str, object]) -> None:
        """Start the shim, which starts the engine; returns at once.

        Raises:
            OSError: a full disk, no more processes.
        """
        self._run.make()
        run = int(str(launch["run"]))
        self._run.forget_runs_before(run - 1)
        self._run.write("launch", launch)
        self._tail.begin(run)
        self._forget_the_run_before()
        try:
            self._shim = self._spawn_shim(run)
        except OSError:
            self._run.remove("launch")  # else it would count as being born
            raise

    def begin_stop(self) -> None:
        """Note that no new requests come; those that run may end."""
        self._since.stop_begun = self._since.stop_begun or monotonic()

    def begin_stop_again(self) -> None:
        """Note that a stop that failed is tried anew, with the whole patience."""
        self._since.stop_begun, self._since.terminated = monotonic(), None

    def terminate(self, reason: str, outcome: str, *, cause: str = "") -> None:
        """Tell the shim to end the engine, with SIGTERM first; returns at once.

        Args:
            reason: why, kept in the run directory with all that follows, in case this worker dies.
            outcome: STOPPED or BACKOFF, what the instance is to become.
            cause: short code of it, of one that is to be started again.
        """
        self._since.terminated = self._since.terminated or monotonic()
        note = {"reason": reason, "cause": cause, "outcome": outcome}
        with suppress(OSError):  # no folder, a full disk: it is to end all the same
            self._run.write("stop", {"run": self.run, **note, "at": time()})
        self.signal_the_end()

    def signal_the_end(self) -> None:
        """Send the SIGTERM that ends it, whose why is written down."""
        self._since.terminated = self._since.terminated or monotonic()
        if shim := self._run.lock_holder():
            with suppress(ProcessLookupError):
                os.kill(shim, signal.SIGTERM)
        elif (leader := self.leader) and leader.alive:
            with suppress(ProcessLookupError):
                os.kill(leader.pid, signal.SIGTERM)
        elif self._shim is not None and self._shim.poll() is None:
            self._shim.terminate()  # being born: it may not get to read that note

    def kill(self) -> set[int]:
        """SIGKILL everything of the engine that is left; return the pids that resist."""
        if shim := self._run.lock_holder():  # it should have done this, and has not
            with suppress(ProcessLookupError):
                os.kill(shim, signal.SIGKILL)
        return process_tree.kill(self._members, _KILL_S)

    def members(self) -> set[int]:
        """Return the pids of all its living processes."""
        return self._members()

    def close(self) -> None:
        """Let go of its log."""
        self._tail.close()

    def _spawn_shim(self, run: int) -> subprocess.Popen[bytes]:
        with self._run.shim_log(run).open("wb") as words:
            return subprocess.Popen(
                [sys.executable, "-m", "workers.shim", str(self._run.path)],
                cwd=ROOT,
                env={"PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                start_new_session=True,
            )

    def _forget_the_run_before(self) -> None:
        self.loading, self.last_lines = Loading(), []
        self._secrets = None
        self._since = _Since(monotonic())
        self._checkup = Checkup(self._prober)

    def _blotted(self, line: str) -> str:
        if self._secrets is None and (launch := self.launch):
            env = launch["env"]
            self._secrets = secrets_in(env if isinstance(env, dict) else {})
        return blotted(line, self._secrets or ())

    # how it is seen

    def _follow_io(self) -> None:
        if monotonic() - self._since.io_read > _IO_EVERY_S:
            self._since.io_read = monotonic()
            goes_on = self.loading.moved(bytes_moved(self._members()), self.age_s)
            if folder := self._hub_folder():
                goes_on |= self.loading.downloaded(downloaded(folder), self.age_s)
            if goes_on:
                self._since.last_progress = monotonic()

    def _hub_folder(self) -> Path | None:
        launch = self.launch or {}
        command, env = launch.get("command"), launch.get("env")
        if not isinstance(command, list) or not isinstance(env, dict):
            return None
        return hub_folder(command, env)

    def _remains(self, record: Instance) -> Remains:
        if self._shim is not None:
            self._shim.poll()  # reap it
        if self.launch is None or self.run < record.run:
            # Never spawned, or not yet again, or somebody removed its folder.
            return Remains.LEFTOVERS if self._members() else Remains.NOT_SPAWNED
        if self._shim_lives():
            leader = self.leader
            ended = self._run.read("exit", self.run) is not None or (leader and not leader.alive)
            return Remains.ENDING if ended else Remains.ALIVE
        if record.status is Status.BACKOFF and self._gone_of_late:
            return Remains.GONE
        return self._remains_of_shim(record)

    def _remains_of_shim(self, record: Instance) -> Remains:
        if self._members():
            return Remains.LEFTOVERS
        if self._never_born():
            return Remains.NOT_SPAWNED
        if not self._released(record):
            return Remains.LEFTOVERS
        self._since.gone = monotonic()
        return Remains.GONE

    @property
    def _gone_of_late(self) -> bool:
        # Looking through the process table every second, for minutes, is not for nothing.
        gone = self._since.gone
        return gone is not None and monotonic() - gone < _LOOK_THROUGH_S

    def _shim_lives(self) -> bool:
        if self._shim is not None and self._shim.returncode is None:
            return True
        if self._run.lock_holder() is not None:
            return True
        age = self._run.age_of("launch", time())
        return self._never_born() and age is not None and abs(age) < _SHIM_STARTS_S

    def _never_born(self) -> bool:
        """Return whether nobody has seen the run that was prepared: its worker died meanwhile."""
        facts = ("state", "exit", "stop")
        return self._shim is None and not any(self._run.read(name, self.run) for name in facts)

    def _members(self) -> set[int]:
        over_at = (self._run.read("exit", self.run) or {}).get("over_at")
        shim = self._run.lock_holder()
        marks = Marks(self.instance_id, self._run.work, self.leader, shim, over_at)
        return process_tree.members(marks)

    def _released(self, record: Instance) -> bool:
        self._since.tree_gone = self._since.tree_gone or monotonic()
        a_stranger_has_it = monotonic() - self._since.tree_gone > _PORT_CLOSES_S
        released = record.port is None or ports.is_released(record.host, record.port)
        if not released and not a_stranger_has_it:
            return False
        return not gpus.why_not_released(record.gpus)

    def _exit(self) -> Exit | None:
        found = self._run.read("exit", self.run)
        return Exit(code=found["code"], signal=found["signal"], at=found["at"]) if found else None


def _since(before: float | None, holds: bool) -> float | None:
    """Return since when something holds; None if it does not."""
    return (before or monotonic()) if holds else None


def _recorded(record: Instance) -> Identity | None:
    if record.pid is None or record.start_time is None:
        return None
    if record.boot_id != process_tree.boot_id():
        return None
    return Identity(record.pid, record.start_time)
