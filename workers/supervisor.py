"""A node's supervisor: compares records with engines and makes the one follow the other.

`domain.reconcile.plan` decides, `actions` applies. It holds no truth of its own: killed at any line
and started again, it goes on from the records, the run directories and the process table.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, time

from shared.domain.backoff import RestartRule, seconds_to_retry
from shared.domain.instance import RELEASED, Desired, Instance, Status
from shared.domain.node import HEARTBEAT_S, Gpu, Node, Orphan
from shared.domain.reconcile import Action, Patience, plan
from shared.errors import StoreUnavailable
from shared.policy import policy
from shared.settings import Settings
from shared.store import Beat, Placed, Store
from workers.actions import Actions
from workers.command import node_environment
from workers.downloads import hub_cache
from workers.engine import Engine
from workers.engine_log import LINES_READ_FOR_CAUSE
from workers.engine_version import engine_version
from workers.expectation import Expectation
from workers.heartbeat import Heartbeat
from workers.old_runs import OldRuns
from workers.orphans import Orphans
from workers.prober import Prober
from workers.recovery import Recovery
from workers.reporting import Reporting
from workers.run_directory import RunDirectory
from workers.run_facts import STOPPED

BUSY_PASS_S = 0.1  # while something starts or stops
LOADING_PASS_S = 1.0  # while engines load; what they answer wakes by itself, each half a second
QUIET_PASS_S = 2.0  # while engines run: for their logs; their ends wake by themselves
WHOLE_S = 30.0  # between looks that read all: somebody may have changed a record by hand
_BORN_S = 3.0  # an engine that loads for longer will for some time
_SWEEP_S = 60.0  # between removals of old run directories and logs
_SCAN_S = 10.0  # between scans of the process table for engines that nobody knows
_TRANSIENT = frozenset({Status.PENDING, Status.STARTING, Status.STOPPING})
_AFTER_THE_END = frozenset({Action.MARK_CRASHED, Action.MARK_STOPPED})
_STOPS_ALREADY = frozenset({Status.FAILED, Status.STOPPING, Status.STOP_FAILED})

log = logging.getLogger(__name__)


class Superseded(Exception):
    """Another worker has announced this node since; this one must not act any more."""


class Supervisor:
    """Looks after all instances of one node. Only one thread may call it."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        gpus: tuple[Gpu, ...],
        ring: Callable[[], None],
        *,
        freed: Callable[[], None] = lambda: None,
    ) -> None:
        """Wire it.

        Args:
            settings: of this node.
            store: of the records.
            gpus: of this node.
            ring: has `look` called at once, from any thread.
            freed: called once there may be room for who waits in line; must not raise.
        """
        self._settings = settings
        self._store = store
        self._node = Node(
            name=settings.node_name,
            address=settings.node_address,
            max_instances=settings.vllm_max_instances,
            gpus=gpus,
            labels=settings.node_labels,
            engine_version=engine_version(settings.vllm_command),
        )
        patience = Patience(
            start_stall=settings.start_stall_timeout_s,
            drain=settings.drain_timeout_s,
            drain_node=settings.node_drain_timeout_s,
            stop=settings.stop_timeout_s,
            hang=settings.hang_grace_s,
        )
        self._actions = Actions(
            settings=settings,
            store=store,
            epoch=0,
            patience=patience,
            expectation=Expectation(store, gpus),
            policy=policy(settings),
            freed=freed,
            restarts=RestartRule(
                backoff=settings.restart_backoff_s,
                backoff_max=settings.restart_backoff_max_s,
                reset_after=settings.restart_reset_after_s,
                max_failed_starts=settings.restart_max_failed_starts,
                max_per_hour=settings.restart_max_per_hour,
            ),
        )
        self._beating = False  # nothing is placed on the node before its records are back
        self._swept_at = 0.0
        self._scanned_at = 0.0
        self._reported: list[Orphan] | None = None
        self._recovery = Recovery(self._engines_dir, settings.node_name, store)
        self._orphans = Orphans(self._engines_dir, store, settings.orphan_grace_s)
        self._old_runs = OldRuns(self._engines_dir, settings.node_log_mib * 2**20)
        self._engines: dict[str, Engine] = {}
        self._last_actions: dict[str, Action] = {}
        self._retry_due: set[str] = set()  # at this look
        self._next_retry_in = math.inf  # seconds
        self._moved = False  # something was done in this look that was not done in the last one
        self._prober = Prober(ring)
        reporting = Reporting(
            gpus,
            engines_dir=self._engines_dir,
            models_dir=settings.models_dir,
            hub=hub_cache((), node_environment(settings)),
            prober=self._prober,
        )
        self._heart = Heartbeat(self._node, store, settings.run_dir, reporting)
        self._records: list[Instance] = []  # at the last look
        self._placed: Placed | None = None  # as the store had them then
        self._read_whole_at = -math.inf  # by time.monotonic()

    def announce(self) -> None:
        """Register the node; from now on this worker, and no earlier one, writes its records.

        Raises:
            Conflict: the node's name belongs to another living worker.
            StoreUnavailable: to be tried again.
        """
        self._actions.epoch = self._recovery.epoch = epoch = self._heart.announce()
        self._recovery.compare_anew()
        self._beating = False
        self._scanned_at = 0.0
        self._reported = self._placed = None
        known = self._store.placed_on(self._node.name)
        log.info("node %s: epoch %d, %d instances on record", self._node.name, epoch, len(known))

    def look(self) -> float:
        """Look at every instance of the node once; return in how many seconds to look again.

        Raises:
            StoreUnavailable: nothing was decided without a record; look again.
            Superseded: stop looking.
        """
        if self._beating:
            self._heartbeat()
        self._moved = False
        self._actions.oom.look()
        records = self._placed_records()
        if not self._actions.leaving:
            records = self._recovery.agree(records)
            for record in records:
                if record.instance_id in self._recovery.written_back:
                    self._engine_of(record).log.pass_on_again(self._store)
            self._records = records
            self._begin_to_beat()
        self._actions.node_records, self._actions.spawned = records, set()
        self._actions.taken = {r.port for r in records if r.port and r.status not in RELEASED}
        self._see_whose_retry_is_due(records)
        oldest_first = sorted(records, key=lambda record: (record.created_at, record.instance_id))
        acted = [self._look_at_safely(record) for record in oldest_first]
        self._let_go({record.instance_id for record in records})
        self._scan({record.instance_id for record in records})
        self._sweep({record.instance_id for record in records})
        if self._moved:
            return 0.0  # one step often leads to the next
        changing = [record for record in records if _in_transit(record)]
        if self._recovery.refused or any(acted) or not all(map(self._loads, changing)):
            return BUSY_PASS_S
        quiet = LOADING_PASS_S if changing else QUIET_PASS_S
        pause = min(quiet, self._next_retry_in) if records else HEARTBEAT_S
        if self._actions.leaving:  # it beats no more
            return pause
        return min(pause, max(self._heart.due_in_s, BUSY_PASS_S))

    def _placed_records(self) -> list[Instance]:
        whole = self._recovery.refused or monotonic() - self._read_whole_at >= WHOLE_S
        if whole:
            self._placed, self._read_whole_at = None, monotonic()
        self._placed = self._store.placed_since(self._node.name, self._placed)
        return list(self._placed.records)

    def watched_pids(self) -> list[int]:
        """Return the pids whose end is a reason to look at once."""
        return [pid for engine in self._engines.values() for pid in engine.processes.watched_pids()]

    def stop_all(self, reason: str) -> None:
        """Begin to stop every engine of the node, without waiting for requests to end.

        Look again until `idle`. Works without the store too: the run directories keep the reason.

        Raises:
            StoreUnavailable: the engines were told, the records were not.
        """
        self._take_up_orphans()
        for instance_id, engine in self._engines.items():
            try:
                engine.terminate(reason, STOPPED)
            except Exception:  # one instance's trouble must not let its neighbours live on
                log.exception("instance %s: could not be told to end", instance_id)
        self._actions.leaving = True
        self._actions.patience = replace(self._actions.patience, drain=0.0)
        self._store.retire(self._node.name, self._actions.epoch)
        for record in self._store.placed_on(self._node.name):
            if record.status not in _STOPS_ALREADY:
                self._actions.write(record, Status.STOPPING, reason=reason)

    @property
    def idle(self) -> bool:
        """Whether no process of any engine is left."""
        return not any(engine.processes.members() for engine in self._engines.values())

    def kill_what_is_left(self) -> None:
        """SIGKILL what has not ended, of engines whose shims are dead too."""
        for engine in self._engines.values():
            engine.processes.kill()

    def close(self) -> None:
        """Leave the node: nothing is placed on it until a worker announces it again."""
        self._prober.shutdown(wait=False, cancel_futures=True)
        self._store.retire(self._node.name, self._actions.epoch)

    def _see_whose_retry_is_due(self, records: list[Instance]) -> None:
        waiting = [record for record in records if record.status is Status.BACKOFF]
        now = self._store.now() if waiting else 0.0
        left = {
            record.instance_id: seconds_to_retry(record.retry_at, now, self._actions.restarts)
            for record in waiting
        }
        self._retry_due = {name for name, seconds in left.items() if seconds == 0.0}
        self._next_retry_in = min((s for s in left.values() if s > 0.0), default=math.inf)

    def _look_at_safely(self, record: Instance) -> bool:
        try:
            return self._look_at(record) is not Action.WAIT
        except StoreUnavailable:
            raise
        except Exception:  # one instance's trouble is not its neighbours'
            log.exception("instance %s: could not be looked at", record.instance_id)
            return False

    def _look_at(self, record: Instance) -> Action:
        if record.status is Status.FAILED and record.desired is Desired.RUNNING:
            return Action.WAIT
        engine = self._engine_of(record)
        engine.follow_log(self._store)
        seen = engine.observe(record, self._actions.patience)
        seen = replace(seen, retry_due=record.instance_id in self._retry_due)
        action = plan(record, seen, monotonic(), self._actions.patience)
        if action not in (Action.WAIT, self._last_actions.get(record.instance_id)):
            log.info("%s: %s (%s, %s)", record.instance_id, action, record.status, seen.remains)
            self._moved = True
        self._last_actions[record.instance_id] = action
        if action in _AFTER_THE_END:  # the cause is in its last words
            engine.follow_log(self._store, to_the_end=True)
        self._actions.apply(action, record, engine, seen)
        if action is not Action.WAIT:
            self._recovery.keep_up(record.instance_id)
        return action

    def _loads(self, record: Instance) -> bool:
        """Return whether nothing is to be done for an instance but to wait for its engine."""
        return (
            record.status is Status.STARTING
            and record.desired is Desired.RUNNING
            and not self._actions.leaving
            and self._engines[record.instance_id].processes.age_s > _BORN_S
        )

    def _heartbeat(self) -> None:
        if self._actions.leaving or self._heart.due_in_s > 0.0:
            return
        loads = {name: engine.request_load for name, engine in self._engines.items()}
        match self._heart.beat(self._records, loads):
            case Beat.SUPERSEDED:
                raise Superseded(f"another worker has announced node {self._node.name}")
            case Beat.UNKNOWN | Beat.BEHIND as said:
                lost = "lost" if said is Beat.UNKNOWN else "gone back to an older state of"
                log.warning("the store has %s node %s: announcing it", lost, self._node.name)
                self.announce()
                return
        self._heart.have_leave(self._records)
        # Beat's sweep, should there be no beat.
        self._store.stop_idle(node=self._node.name, hold_s=self._settings.idle_hold_s)

    def _begin_to_beat(self) -> None:
        if self._recovery.refused:  # the store has lost more than a record: find out at once
            self._heart.hasten()
        if not self._beating:
            self._beating = True
            self._heart.hasten()
            self._heartbeat()
            self._actions.freed()

    def _scan(self, placed: set[str]) -> None:
        if self._actions.leaving or monotonic() - self._scanned_at < _SCAN_S:
            return
        self._scanned_at = monotonic()
        found = self._orphans.scan(placed, monotonic(), time())
        if found or self._reported:
            self._store.report_orphans(self._node.name, self._actions.epoch, found)
        self._reported = found

    def _sweep(self, placed: set[str]) -> None:
        if self._actions.leaving or monotonic() - self._swept_at < _SWEEP_S:
            return
        if not self._recovery.refused:  # else one that is looked after may not be among them
            self._swept_at = monotonic()
            self._old_runs.sweep(placed | self._engines.keys(), time())

    def _engine_of(self, record: Instance) -> Engine:
        name = record.instance_id
        if name in self._engines or record.status is Status.PENDING:
            return self._engine(name)
        last = self._store.log(name, record.run, LINES_READ_FOR_CAUSE)  # first: it may be away
        engine = self._engine(name)
        engine.resume(record, [line.text for line in last])
        return engine

    def _engine(self, instance_id: str) -> Engine:
        if instance_id not in self._engines:
            run = RunDirectory(self._engines_dir / instance_id)
            self._engines[instance_id] = Engine(instance_id, run, self._prober)
        return self._engines[instance_id]

    def _take_up_orphans(self) -> None:
        """Hold every engine of this node that lives, those that no record knows too."""
        for path in self._engines_dir.iterdir() if self._engines_dir.is_dir() else ():
            if RunDirectory(path).lock_holder() is not None:
                self._engine(path.name)

    @property
    def _engines_dir(self) -> Path:
        return self._settings.run_dir / "engines"

    def _let_go(self, known: set[str]) -> None:
        for instance_id in self._engines.keys() - known:
            engine = self._engines[instance_id]
            if not engine.processes.has_shim:  # an engine without a record is not forgotten
                engine.log.close()
                del self._engines[instance_id]
                self._last_actions.pop(instance_id, None)


def _in_transit(record: Instance) -> bool:
    return record.status in _TRANSIENT or (
        record.desired is Desired.STOPPED and record.status is not Status.STOP_FAILED
    )
