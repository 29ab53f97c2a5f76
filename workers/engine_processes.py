"""The processes of one engine: its shim, its first process, its tree; what remains of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from time import monotonic

from shared.domain.instance import Instance, Status
from shared.domain.reconcile import Remains
from shared.settings import ROOT
from workers import gpus, ports, process_tree
from workers.process_tree import Identity, Marks
from workers.run_directory import RunDirectory
from workers.run_facts import RunFacts

_SHIM_STARTS_S = 5.0  # a shim without a lock is still being born for so long, not dead
_KILL_S = 1.0  # one turn of killing; the supervisor comes back while anything is left
_PORT_CLOSES_S = 10.0  # then whoever holds the port is a stranger: nothing of ours runs
_LOOK_THROUGH_S = 30.0  # between looks for processes of an engine that was seen to be gone


class EngineProcesses:
    """An engine's processes, those of its last run foremost. Not thread-safe."""

    def __init__(self, instance_id: str, directory: RunDirectory, facts: RunFacts) -> None:
        self._instance_id = instance_id
        self._directory = directory
        self._facts = facts
        self._shim: subprocess.Popen[bytes] | None = None  # None: another worker's child
        self._recorded: Identity | None = None  # the first process, as the record has it
        self._seen_alive = False  # at the last look
        self._tree_gone_at: float | None = None  # by our monotonic clock, as the next
        self._gone_at: float | None = None

    # what they look like

    @property
    def leader(self) -> Identity | None:
        """The engine's first process; None until it is spawned, or since another boot."""
        return self._facts.leader if self._facts.spawned else self._recorded

    @property
    def leaderless(self) -> bool:
        """Whether the first process has ended, or there never was one."""
        leader = self.leader
        return leader is None or not leader.alive

    @property
    def age_s(self) -> float:
        """Seconds since the first process was spawned; 0 if it was not."""
        leader = self.leader
        return 0.0 if leader is None else leader.age_s

    @property
    def has_shim(self) -> bool:
        """Whether a shim of this engine lives."""
        return self._directory.lock_holder() is not None

    @property
    def spawned_here(self) -> bool:
        """Whether this worker has spawned it, and so has seen all of its start."""
        return self._shim is not None

    @property
    def shim_ended_well(self) -> bool:
        """Whether its shim is known to have come to its own end: how the engine ended, it knew."""
        return self._shim is not None and self._shim.poll() == 0

    def members(self) -> set[int]:
        """Return the pids of all that live, the shim not counted."""
        shim = self._directory.lock_holder()
        marks = Marks(
            self._instance_id, self._directory.work, self.leader, shim, self._facts.over_at
        )
        return process_tree.members(marks)

    def watched_pids(self) -> list[int]:
        """Return the pids whose end is news: the first process and the shim."""
        leader, shim = self.leader, self._directory.lock_holder()
        # A zombie has no news, unless it has ended since the last look at it: told once.
        news, self._seen_alive = self._seen_alive, False
        running = leader.pid if leader and (news or leader.alive) else None
        return [pid for pid in (running, shim) if pid is not None]

    def look(self, record: Instance) -> Remains:
        """Return how much is left of what the record speaks of."""
        self._recorded = _recorded(record)
        remains = self._remains(record)
        self._seen_alive = remains is Remains.ALIVE
        return remains

    # what can be done to them

    def spawn(self, run: int) -> None:
        """Start the shim, which starts the engine; returns at once.

        Raises:
            OSError: no more processes.
        """
        self._tree_gone_at = self._gone_at = None
        with self._directory.shim_log(run).open("wb") as words:
            self._shim = subprocess.Popen(
                [sys.executable, "-m", "workers.shim", str(self._directory.path)],
                cwd=ROOT,
                env={"PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                start_new_session=True,
            )

    def signal_the_end(self) -> None:
        """Send the SIGTERM that ends them, whose why is written down."""
        if shim := self._directory.lock_holder():
            with suppress(ProcessLookupError):
                os.kill(shim, signal.SIGTERM)
        elif (leader := self.leader) and leader.alive:
            with suppress(ProcessLookupError):
                os.kill(leader.pid, signal.SIGTERM)
        elif self._shim is not None and self._shim.poll() is None:
            self._shim.terminate()  # being born: it may not get to read that note

    def kill(self) -> set[int]:
        """SIGKILL everything that is left, the shim first; return the pids that resist."""
        if shim := self._directory.lock_holder():  # it should have done this, and has not
            with suppress(ProcessLookupError):
                os.kill(shim, signal.SIGKILL)
        return process_tree.kill(self.members, _KILL_S)

    # how they are seen

    def _remains(self, record: Instance) -> Remains:
        if self._shim is not None:
            self._shim.poll()  # reap it
        if self._facts.launch is None or self._facts.run < record.run:
            # Never spawned, or not yet again, or somebody removed its folder.
            return Remains.LEFTOVERS if self.members() else Remains.NOT_SPAWNED
        if self._shim_lives():
            born = self.leader is not None
            ended = self._facts.exit is not None or (born and self.leaderless)
            return Remains.ENDING if ended else Remains.ALIVE
        if record.status is Status.BACKOFF and self._gone_of_late:
            return Remains.GONE
        return self._remains_of_shim(record)

    def _remains_of_shim(self, record: Instance) -> Remains:
        if self.members():
            return Remains.LEFTOVERS
        if self._never_born():
            return Remains.NOT_SPAWNED
        if not self._released(record):
            return Remains.LEFTOVERS
        self._gone_at = monotonic()
        return Remains.GONE

    @property
    def _gone_of_late(self) -> bool:
        # Looking through the process table every second, for minutes, is not for nothing.
        return self._gone_at is not None and monotonic() - self._gone_at < _LOOK_THROUGH_S

    def _shim_lives(self) -> bool:
        if self._shim is not None and self._shim.returncode is None:
            return True
        if self._directory.lock_holder() is not None:
            return True
        age = self._facts.launched_s_ago
        return self._never_born() and age is not None and abs(age) < _SHIM_STARTS_S

    def _never_born(self) -> bool:
        """Return whether nobody has seen the run that was prepared: its worker died meanwhile."""
        return self._shim is None and self._facts.unseen

    def _released(self, record: Instance) -> bool:
        self._tree_gone_at = self._tree_gone_at or monotonic()
        a_stranger_has_it = monotonic() - self._tree_gone_at > _PORT_CLOSES_S
        released = record.port is None or ports.is_released(record.host, record.port)
        if not released and not a_stranger_has_it:
            return False
        return not gpus.why_not_released(record.gpus)


def _recorded(record: Instance) -> Identity | None:
    if record.pid is None or record.start_time is None:
        return None
    if record.boot_id != process_tree.boot_id():
        return None
    return Identity(record.pid, record.start_time)
