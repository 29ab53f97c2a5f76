"""One engine of this node, as its supervisor holds it: look at it, spawn it, end it.

Everything that matters is in the run directory and in the process table, so a new worker that
finds the directory takes over where the last one stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from shared.domain.instance import Instance, Status
from shared.domain.node import Load as RequestLoad
from shared.domain.reconcile import Observation, Patience, Remains
from shared.store import Store
from workers.checkup import Checkup
from workers.engine_log import EngineLog
from workers.engine_processes import EngineProcesses
from workers.loading import Loading
from workers.prober import Prober
from workers.run_directory import RunDirectory
from workers.run_facts import STOPPED, RunFacts
from workers.stages import STAGES, Load
from workers.watched_load import WatchedLoad


@dataclass(slots=True)
class _Since:
    """When things were first seen of the present run, by our monotonic clock."""

    stop_begun: float | None = None
    terminated: float | None = None
    ending: float | None = None
    leftovers: float | None = None
    idle_asked: float | None = None


class Engine:
    """One engine. Not thread-safe: only the supervisor's thread calls it; probes run elsewhere."""

    def __init__(self, instance_id: str, directory: RunDirectory, prober: Prober) -> None:
        self.facts = RunFacts(directory)
        self.processes = EngineProcesses(instance_id, directory, self.facts)
        self.log = EngineLog(instance_id, directory, self.facts)
        self._load = WatchedLoad()
        self._checkup = Checkup(prober)
        self._since = _Since()
        self._directory = directory
        self._prober = prober

    @property
    def loading(self) -> Loading:
        """How far its start is."""
        return self._load.loading

    @property
    def request_load(self) -> RequestLoad:
        """What it last said of its requests."""
        return self._checkup.load

    def resume(self, record: Instance, last_lines: list[str]) -> None:
        """Go on from what another worker had recorded of the load."""
        if record.stage in STAGES:
            load = Load(record.stage, record.progress, record.stage_detail)
            self._load = WatchedLoad(Loading(load, self.processes.age_s))
        self.log.last_lines = last_lines

    def follow_log(self, store: Store, *, to_the_end: bool = False) -> None:
        """Read on in its log, follow the load in there, and pass it on to the store.

        Args:
            store: to have it.
            to_the_end: nobody writes any more.

        Raises:
            StoreUnavailable: what was read goes with what comes next.
        """
        if lines := self.log.read(to_the_end=to_the_end):
            self._load.hear(lines, self.processes.age_s)
        self.log.pass_on(store)

    def observe(self, record: Instance, patience: Patience) -> Observation:
        """Return what the engine looks like now; asks it nothing that could block."""
        if record.status is Status.STOPPING:
            self.begin_stop()  # its patience begins anew where another worker began the stop
        since, checkup = self._since, self._checkup
        since.idle_asked = _since(since.idle_asked, record.about_to_stop_as_idle)
        checkup.notice_use(record)
        remains = self.processes.look(record)
        alive = remains is Remains.ALIVE
        since.ending = _since(since.ending, remains is Remains.ENDING)
        since.leftovers = _since(since.leftovers, remains is Remains.LEFTOVERS)
        launch = (self.facts.launch or {}) if alive else {}
        starts = alive and record.status is Status.STARTING
        if starts:
            self._load.look(launch, self.processes.members, self.processes.age_s)
        if launch:
            checkup.look(record, launch, patience)
        outcome = (self.facts.stop_note or {}).get("outcome")
        return Observation(
            remains=remains,
            ready=starts and checkup.is_ready(launch),
            hung=checkup.why_hung(patience) if alive else "",
            well=checkup.well,
            exit=self.facts.exit,
            leaderless=self.processes.leaderless,
            busy=checkup.is_busy(record, launch, since.stop_begun) if launch else False,
            idle_asked_at=since.idle_asked,
            ending_since=since.ending,
            leftovers_since=since.leftovers,
            told_to_stop=outcome == STOPPED,
            told_to_end=outcome not in (None, STOPPED),
            stop_begun_at=since.stop_begun,
            terminated_at=since.terminated,
            last_progress_at=self._load.last_progress_at,
        )

    def spawn(self, launch: dict[str, object]) -> None:
        """Start the shim, which starts the engine; returns at once.

        Raises:
            OSError: a full disk, no more processes.
        """
        run = int(str(launch["run"]))
        self._directory.make()
        self._directory.forget_runs_before(run - 1)
        self._directory.write("launch", launch)
        self.log.begin(run)
        self._load, self._checkup, self._since = WatchedLoad(), Checkup(self._prober), _Since()
        try:
            self.processes.spawn(run)
        except OSError:
            self._directory.remove("launch")  # else it would count as being born
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
            reason: why; see `RunFacts.note_stop`, for the others too.
            outcome: STOPPED or BACKOFF.
            cause: short code.
        """
        self._since.terminated = self._since.terminated or monotonic()
        self.facts.note_stop(reason, outcome, cause)
        self.processes.signal_the_end()

    def go_on_ending(self) -> None:
        """End it for the reason that is written down."""
        self._since.terminated = self._since.terminated or monotonic()
        self.processes.signal_the_end()


def _since(before: float | None, holds: bool) -> float | None:
    """Return since when something holds; None if it does not."""
    return (before or monotonic()) if holds else None
