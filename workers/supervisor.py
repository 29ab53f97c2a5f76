"""A node's supervisor: compares records with engines and makes the one follow the other.

`domain.reconcile.plan` decides; this applies. It holds no truth of its own: killed at any line and
started again, it goes on from the records, the run directories and the process table.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import monotonic, time

from shared.domain.instance import RELEASED, Desired, Instance, Status
from shared.domain.node import HEARTBEAT_S, Gpu, Node
from shared.domain.reconcile import Action, Observation, Patience, plan
from shared.errors import NoCapacity, StoreUnavailable
from shared.settings import Settings
from shared.store import KEEP_ENDED_S, Change, Store
from workers import process_tree
from workers.autopsy import Cause, cause_of_death
from workers.command import command, environment
from workers.engine import FAILED, STOPPED, Engine, launch_of
from workers.ports import choose_port
from workers.run_directory import RunDirectory

BUSY_PASS_S = 0.1  # while something starts or stops
QUIET_PASS_S = 1.0  # while engines run: for their logs; their ends wake by themselves
_SWEEP_S = 600.0  # between removals of old run directories
_PROBES_AT_ONCE = 8
_TRANSIENT = frozenset({Status.PENDING, Status.STARTING, Status.STOPPING})

log = logging.getLogger(__name__)


class Superseded(Exception):
    """Another worker has announced this node since; this one must not act any more."""


class Supervisor:
    """Looks after all instances of one node. Only one thread may call it."""

    def __init__(self, settings: Settings, store: Store, gpus: tuple[Gpu, ...]) -> None:
        self._settings = settings
        self._store = store
        self._node = Node(
            name=settings.node_name,
            address=settings.node_address,
            max_instances=settings.vllm_max_instances,
            gpus=gpus,
        )
        self._patience = Patience(
            start_stall=settings.start_stall_timeout_s,
            drain=settings.drain_timeout_s,
            stop=settings.stop_timeout_s,
        )
        self._epoch = 0
        self._beat_at = 0.0
        self._swept_at = 0.0
        self._leaving = False
        self._taken: set[int] = set()  # ports that records of this node hold
        self._engines: dict[str, Engine] = {}
        self._prober = ThreadPoolExecutor(_PROBES_AT_ONCE, thread_name_prefix="probe")
        self._act: dict[Action, Callable[[Instance, Engine, Observation], None]] = {
            Action.WAIT: self._report_progress,
            Action.SPAWN: self._spawn,
            Action.ADOPT: self._adopt,
            Action.MARK_RUNNING: self._mark_running,
            Action.BEGIN_STOP: self._begin_stop,
            Action.TERMINATE: self._terminate,
            Action.KILL: self._kill,
            Action.MARK_STOPPED: self._mark_stopped,
            Action.MARK_STOP_FAILED: self._mark_stop_failed,
            Action.GIVE_UP_START: self._give_up_start,
            Action.MARK_CRASHED: self._mark_crashed,
        }

    def announce(self) -> None:
        """Register the node; from now on this worker, and no earlier one, writes its records.

        Raises:
            StoreUnavailable: to be tried again.
        """
        self._epoch = self._store.announce(self._node)
        self._beat_at = monotonic()
        known = self._store.placed_on(self._node.name)
        log.info("node %s: %d instances on record", self._node.name, len(known))

    def look(self) -> float:
        """Look at every instance of the node once; return in how many seconds to look again.

        Raises:
            StoreUnavailable: nothing was decided without a record; look again.
            Superseded: stop looking.
        """
        self._heartbeat()
        records = self._store.placed_on(self._node.name)
        self._taken = {r.port for r in records if r.port and r.status not in RELEASED}
        acted = [self._look_at_safely(record) for record in records]
        self._let_go({record.instance_id for record in records})
        busy = any(acted) or any(_in_transit(record) for record in records)
        if busy:
            return BUSY_PASS_S
        return QUIET_PASS_S if records else HEARTBEAT_S / 2

    def watched_pids(self) -> list[int]:
        """Return the pids whose end is a reason to look at once."""
        return [pid for engine in self._engines.values() for pid in engine.watched_pids()]

    def stop_all(self, reason: str) -> None:
        """Begin to stop every engine of the node, without waiting for requests to end.

        Look again until `idle`. Works without the store too: the run directories keep the reason.
        """
        self._leaving = True
        for engine in self._engines.values():
            engine.terminate(reason, STOPPED)
        self._patience = replace(self._patience, drain=0.0)
        self._store.retire(self._node.name, self._epoch)
        for record in self._store.placed_on(self._node.name):
            if record.status not in (Status.FAILED, Status.STOPPING, Status.STOP_FAILED):
                self._write(record, Status.STOPPING, reason=reason)

    @property
    def idle(self) -> bool:
        """Whether no process of any engine is left."""
        return not any(engine.members() for engine in self._engines.values())

    def close(self) -> None:
        """Leave the node: nothing is placed on it until a worker announces it again."""
        self._prober.shutdown(wait=False, cancel_futures=True)
        self._store.retire(self._node.name, self._epoch)

    # one instance

    def _look_at_safely(self, record: Instance) -> bool:
        try:
            return self._look_at(record) is not Action.WAIT
        except (StoreUnavailable, Superseded):
            raise
        except Exception:  # the one broad catch: one instance's trouble is not its neighbours'
            log.exception("instance %s: could not be looked at", record.instance_id)
            return False

    def _look_at(self, record: Instance) -> Action:
        if record.status is Status.FAILED and record.desired is Desired.RUNNING:
            return Action.WAIT
        engine = self._engine(record.instance_id)
        if lines := engine.read_log():
            self._store.append_log(record.instance_id, lines)
            engine.log_passed_on()
        seen = engine.observe(record)
        action = plan(record, seen, monotonic(), self._patience)
        if action is not Action.WAIT:
            log.info(
                "instance %s: %s (%s, %s)", record.instance_id, action, record.status, seen.ended
            )
        self._act[action](record, engine, seen)
        return action

    def _report_progress(self, record: Instance, engine: Engine, _seen: Observation) -> None:
        if record.status is not Status.STARTING:
            return
        told = {"stage": engine.load.stage, "progress": engine.load.progress, **_process(engine)}
        if any(getattr(record, name) != value for name, value in told.items()):
            self._write(record, Status.STARTING, **told)

    def _spawn(self, record: Instance, engine: Engine, _seen: Observation) -> None:
        if self._leaving:
            self._begin_stop(record, engine, _seen)
            return
        first = self._settings.vllm_base_port
        host = self._settings.node_address
        try:
            ports = range(first, first + self._settings.vllm_max_instances + 1)
            port = choose_port(host, ports, self._taken)
        except NoCapacity as error:
            if record.reason != str(error):
                self._write(record, record.status, reason=str(error))
            return
        self._taken.add(port)  # the next start of this pass cannot see it held yet
        key = secrets.token_urlsafe(32)
        chosen = replace(record, host=host, port=port, engine_key=key)
        told = {"host": host, "port": port, "engine_key": key, "stage": engine.load.stage}
        if self._write(record, Status.STARTING, reason="", **told):
            launch = launch_of(
                chosen,
                command=command(chosen, port, self._settings),
                env=environment(chosen, key, self._settings),
                stop_timeout_s=self._settings.stop_timeout_s,
            )
            engine.spawn(launch)

    def _adopt(self, record: Instance, engine: Engine, _seen: Observation) -> None:
        launch = engine.launch or {}
        told = {"host": launch["host"], "port": launch["port"], "engine_key": launch["key"]}
        self._write(record, Status.STARTING, reason="", **told, **_process(engine))

    def _mark_running(self, record: Instance, engine: Engine, _seen: Observation) -> None:
        self._write(record, Status.RUNNING, reason="", stage="", progress=None, **_process(engine))

    def _begin_stop(self, record: Instance, engine: Engine, _seen: Observation) -> None:
        noted = (engine.stop_note or {}).get("reason", "its worker was stopped")
        reason = record.stop_reason or noted
        if self._write(record, Status.STOPPING, reason=reason, stage="", progress=None):
            engine.begin_stop()

    def _terminate(self, record: Instance, engine: Engine, _seen: Observation) -> None:
        engine.terminate(record.reason, STOPPED)

    def _kill(self, record: Instance, engine: Engine, _seen: Observation) -> None:
        if left := engine.kill():
            log.warning("instance %s: pids %s resist SIGKILL", record.instance_id, sorted(left))

    def _mark_stopped(self, record: Instance, engine: Engine, seen: Observation) -> None:
        self._write(record, Status.STOPPED, port=None, pid=None, exit=seen.exit)
        engine.close()

    def _mark_stop_failed(self, record: Instance, engine: Engine, _seen: Observation) -> None:
        pids = sorted(engine.members())
        left = f"pids {pids} of it" if pids else f"its port {record.port} or its GPU memory"
        reason = f"{left} could not be ended or freed; its claim on {record.node} is kept"
        self._write(record, Status.STOP_FAILED, reason=reason)

    def _give_up_start(self, record: Instance, engine: Engine, _seen: Observation) -> None:
        stalled = f"no progress for {self._patience.start_stall:g} s in stage {engine.load.stage}"
        log.warning("instance %s: %s", record.instance_id, stalled)
        engine.terminate(stalled, FAILED)

    def _mark_crashed(self, record: Instance, engine: Engine, seen: Observation) -> None:
        # Back-off and restart belong here.
        cause = _cause(engine, seen)
        self._write(
            record,
            Status.FAILED,
            reason=cause.reason,
            cause=cause.code,
            advice=cause.advice,
            exit=seen.exit,
            last_log=engine.last_lines,
            port=None,
            pid=None,
        )
        engine.close()

    # the node

    def _heartbeat(self) -> None:
        if monotonic() - self._beat_at < HEARTBEAT_S / 2:
            return
        if self._leaving:
            return
        if not self._store.heartbeat(self._node.name, self._epoch):
            raise Superseded(f"another worker has announced node {self._node.name}")
        self._beat_at = monotonic()
        self._store.stop_idle(node=self._node.name)  # beat's sweep, should there be no beat
        self._remove_old_directories()

    def _engine(self, instance_id: str) -> Engine:
        if instance_id not in self._engines:
            run = RunDirectory(self._engines_dir / instance_id)
            self._engines[instance_id] = Engine(instance_id, run, self._prober)
        return self._engines[instance_id]

    @property
    def _engines_dir(self) -> Path:
        return self._settings.run_dir / "engines"

    def _let_go(self, known: set[str]) -> None:
        for instance_id in self._engines.keys() - known:
            self._engines.pop(instance_id).close()

    def _remove_old_directories(self) -> None:
        if monotonic() - self._swept_at < _SWEEP_S or not self._engines_dir.is_dir():
            return
        self._swept_at = monotonic()
        for path in self._engines_dir.iterdir():
            age = RunDirectory(path).age_of("exit", time())
            if path.name not in self._engines and age is not None and age > KEEP_ENDED_S:
                shutil.rmtree(path, ignore_errors=True)

    def _write(self, record: Instance, status: Status, **fields: object) -> bool:
        change = Change(
            instance_id=record.instance_id,
            node=self._node.name,
            epoch=self._epoch,
            generation=record.generation,
            status=status,
            fields=fields,
        )
        return self._store.apply(change)  # False: the record has moved on; the next look sees it


def _in_transit(record: Instance) -> bool:
    return record.status in _TRANSIENT or (
        record.desired is Desired.STOPPED and record.status is not Status.STOP_FAILED
    )


def _process(engine: Engine) -> dict[str, object]:
    leader = engine.leader
    if leader is None:
        return {}
    return {
        "pid": leader.pid,
        "start_time": leader.start_time,
        "boot_id": process_tree.boot_id(),
    }


def _cause(engine: Engine, seen: Observation) -> Cause:
    note = engine.stop_note
    if note is not None:
        return Cause(
            "start_stalled",
            note["reason"],
            "see the log; START_STALL_TIMEOUT says how long a silent start may take",
        )
    if seen.exit is None:
        return Cause("unknown", "engine and its shim ended without a trace (a reboot?)")
    return cause_of_death(seen.exit, engine.last_lines)
