"""What a supervisor does about one instance: each action of the plan, applied.

An action writes the record by compare-and-set, or touches the engine, or both in the order that
survives being killed in between; doing it twice is harmless.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic

from shared.domain.cause import Cause
from shared.domain.instance import Instance, Status
from shared.domain.policy import Policy
from shared.domain.reconcile import Action, Observation, Patience
from shared.errors import InvalidRequest, NoCapacity
from shared.settings import Settings
from shared.store import Change, Store
from workers import process_tree
from workers.admission import refuse_unsafe_spec
from workers.causes import cause_of_death, known
from workers.causes.oom import OomKiller
from workers.command import command, environment
from workers.engine import FAILED, LAST_LOG_LINES, STOPPED, Engine, launch_of
from workers.expectation import Expectation
from workers.ports import choose_port
from workers.stages import Load

log = logging.getLogger(__name__)

_AT_LAUNCH = {"stage": Load().stage, "progress": None, "stage_detail": "", "eta": None}
NOT_LOADING = {"stage": "", "progress": None, "stage_detail": "", "eta": None}

Act = Callable[[Instance, Engine, Observation], None]


@dataclass(slots=True, kw_only=True)
class Actions:
    """Applies actions on one node."""

    settings: Settings
    store: Store
    epoch: int  # of the node; every write is refused once another worker has announced it
    patience: Patience
    expectation: Expectation
    policy: Policy  # of this node's operator
    oom: OomKiller = field(default_factory=OomKiller)
    leaving: bool = False  # the worker is stopping: nothing is started any more
    taken: set[int] = field(default_factory=set)  # ports that records of this node hold

    def apply(self, action: Action, record: Instance, engine: Engine, seen: Observation) -> None:
        """Do what the plan says."""
        table: dict[Action, Act] = {
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
        table[action](record, engine, seen)

    def write(self, record: Instance, status: Status, **fields: object) -> bool:
        """Write the record; return False if it has moved on, which the next look will see."""
        change = Change(
            instance_id=record.instance_id,
            node=self.settings.node_name,
            epoch=self.epoch,
            generation=record.generation,
            status=status,
            fields=fields,
        )
        return self.store.apply(change)

    def _report_progress(self, record: Instance, engine: Engine, _: Observation) -> None:
        if record.status is not Status.STARTING:
            return
        load = engine.loading.load
        told = {
            "stage": load.stage,
            "progress": load.progress,
            "stage_detail": load.detail,
            "eta": self.expectation.ready_at(record, engine.loading, engine.age_s),
            **_process(engine),
        }
        if any(getattr(record, name) != value for name, value in told.items()):
            self.write(record, Status.STARTING, **told)

    def _spawn(self, record: Instance, engine: Engine, seen: Observation) -> None:
        if self.leaving:
            self._begin_stop(record, engine, seen)
            return
        try:
            refuse_unsafe_spec(record, self.policy, self.settings)
        except InvalidRequest as error:
            self._fail(record, known("refused", f"this node refuses it: {error}"))
            return
        port = self._choose_port(record, seen)
        if port is None:
            return
        host, key = self.settings.node_address, secrets.token_urlsafe(32)
        # `starting` already: of a start that was announced, nothing was spawned.
        run = record.run + (record.status is not Status.STARTING)
        chosen = replace(record, host=host, port=port, engine_key=key, run=run)
        told = {
            "run": run,
            "host": host,
            "port": port,
            "engine_key": key,
            **_AT_LAUNCH,
        }
        if not self.write(record, Status.STARTING, reason="", **told):
            return
        try:
            engine.spawn(
                launch_of(
                    chosen,
                    command=command(chosen, port, self.settings),
                    env=environment(chosen, key, self.settings),
                    stop_timeout_s=self.settings.stop_timeout_s,
                )
            )
        except (OSError, ValueError) as error:
            self._fail(record, known("not_spawned", f"could not be spawned: {error}"))

    def _choose_port(self, record: Instance, seen: Observation) -> int | None:
        first = self.settings.vllm_base_port
        ports = range(first, first + self.settings.vllm_max_instances + 1)
        try:
            port = choose_port(self.settings.node_address, ports, self.taken)
        except NoCapacity as error:
            if monotonic() - (seen.last_progress_at or 0.0) > self.patience.start_stall:
                self._fail(record, known("port_taken", str(error)))
            elif record.reason != str(error):
                self.write(record, record.status, reason=str(error))
            return None
        self.taken.add(port)  # the next start of this look cannot see it held yet
        return port

    def _adopt(self, record: Instance, engine: Engine, _: Observation) -> None:
        launch = engine.launch or {}
        told = {"host": launch["host"], "port": launch["port"], "engine_key": launch["key"]}
        self.write(record, Status.STARTING, reason="", **told, **_process(engine))

    def _mark_running(self, record: Instance, engine: Engine, _: Observation) -> None:
        age_s = engine.age_s
        if self.write(record, Status.RUNNING, reason="", **NOT_LOADING, **_process(engine)):
            self.expectation.learn(record, engine.loading, age_s)

    def _begin_stop(self, record: Instance, engine: Engine, _: Observation) -> None:
        noted = (engine.stop_note or {}).get("reason", "its worker was stopped")
        reason = record.stop_reason or noted
        if self.write(record, Status.STOPPING, reason=reason, **NOT_LOADING):
            engine.begin_stop()

    def _terminate(self, record: Instance, engine: Engine, _: Observation) -> None:
        engine.terminate(record.reason, STOPPED)

    def _kill(self, record: Instance, engine: Engine, _: Observation) -> None:
        if left := engine.kill():
            log.warning("instance %s: pids %s resist SIGKILL", record.instance_id, sorted(left))

    def _mark_stopped(self, record: Instance, engine: Engine, seen: Observation) -> None:
        self.write(record, Status.STOPPED, port=None, pid=None, exit=seen.exit)
        engine.close()

    def _mark_stop_failed(self, record: Instance, engine: Engine, _: Observation) -> None:
        pids = sorted(engine.members())
        left = f"pids {pids} of it" if pids else f"its port {record.port} or its GPU memory"
        reason = f"{left} could not be ended or freed; its claim on {record.node} is kept"
        self.write(record, Status.STOP_FAILED, reason=reason)

    def _give_up_start(self, record: Instance, engine: Engine, _: Observation) -> None:
        stalled = (
            f"no progress for {self.patience.start_stall:g} s in stage {engine.loading.load.stage}"
        )
        log.warning("instance %s: %s", record.instance_id, stalled)
        engine.terminate(stalled, FAILED)

    def _mark_crashed(self, record: Instance, engine: Engine, seen: Observation) -> None:
        # Back-off and restart belong here.
        self._fail(
            record,
            self._cause(record, engine, seen),
            exit=seen.exit,
            last_log=engine.last_lines[-LAST_LOG_LINES:],
        )
        engine.close()

    def _cause(self, record: Instance, engine: Engine, seen: Observation) -> Cause:
        note = engine.stop_note
        if note is not None:
            return known("start_stalled", note["reason"])
        if seen.exit is None:
            return known("unknown", "engine and its shim ended without a trace (a reboot?)")
        pid = None if engine.leader is None else engine.leader.pid
        return cause_of_death(
            seen.exit,
            engine.last_lines,
            was_ready=record.status is not Status.STARTING,
            out_of_memory=self.oom.struck(pid, engine.last_lines, engine.age_s),
        )

    def _fail(self, record: Instance, cause: Cause, **fields: object) -> None:
        self.write(
            record,
            Status.FAILED,
            reason=cause.reason,
            cause=cause.code,
            advice=cause.advice,
            port=None,
            pid=None,
            **fields,
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
