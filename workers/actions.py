"""What a supervisor does about one instance: each action of the plan, applied.

An action writes the record by compare-and-set, or touches the engine, or both in the order that
survives being killed in between; doing it twice is harmless.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from time import monotonic

from shared.domain.backoff import RestartRule, after_crash
from shared.domain.cause import Cause
from shared.domain.instance import RELEASED, Instance, Status
from shared.domain.policy import Policy
from shared.domain.reconcile import Action, Observation, Patience, Remains
from shared.errors import InvalidRequest, NoCapacity
from shared.settings import Settings
from shared.store import Change, Store
from workers import gpus, process_tree
from workers.admission import refuse_unsafe_spec
from workers.causes import cause_of_death, known
from workers.causes.oom import OomKiller
from workers.command import command, environment
from workers.engine import Engine
from workers.expectation import Expectation
from workers.holders import what_is_left
from workers.launch import launch_of
from workers.ports import choose_port
from workers.run_facts import BACKOFF, STOPPED
from workers.stages import Load

LAST_LOG_LINES = 50  # kept in the record of one that crashed

log = logging.getLogger(__name__)

_AT_LAUNCH = {"stage": Load().stage, "progress": None, "stage_detail": "", "eta": None}
NOT_LOADING = {"stage": "", "progress": None, "stage_detail": "", "eta": None}
_OF_NO_RUN = dict.fromkeys(("port", "pid", "start_time", "retry_at"))
_OF_THE_RUN_BEFORE = dict.fromkeys(("ready_at", "retry_at", "pid", "start_time"))

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
    restarts: RestartRule
    freed: Callable[[], None] = lambda: None  # called once there may be room for who waits in line
    oom: OomKiller = field(default_factory=OomKiller)
    leaving: bool = False  # the worker is stopping: nothing is started any more
    node_records: Collection[Instance] = ()  # of this node's instances, at this look
    spawned: set[str] = field(default_factory=set)  # of them, in this look
    taken: set[int] = field(default_factory=set)  # ports that records of this node hold
    waiting_since: dict[str, float] = field(default_factory=dict)  # for a port, for its GPUs

    def apply(self, action: Action, record: Instance, engine: Engine, seen: Observation) -> None:
        """Do what the plan says."""
        table: dict[Action, Act] = {
            Action.WAIT: self._report_progress,
            Action.LOOK_AGAIN: self._report_progress,
            Action.SPAWN: self._spawn,
            Action.ADOPT: self._adopt,
            Action.MARK_RUNNING: self._mark_running,
            Action.MARK_UNHEALTHY: self._mark_unhealthy,
            Action.BEGIN_STOP: self._begin_stop,
            Action.TERMINATE: self._terminate,
            Action.KILL: self._kill,
            Action.MARK_STOPPED: self._mark_stopped,
            Action.MARK_STOP_FAILED: self._mark_stop_failed,
            Action.GIVE_UP_START: self._give_up_start,
            Action.END_HUNG: self._end_hung,
            Action.GO_ON_ENDING: self._go_on_ending,
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
        written = self.store.apply(change)
        if written and status in RELEASED:
            self.freed()
        return written

    def _report_progress(self, record: Instance, engine: Engine, _: Observation) -> None:
        if record.status is not Status.STARTING:
            return
        load = engine.loading.load
        told = {
            "stage": load.stage,
            "progress": load.progress,
            "stage_detail": load.detail,
            "eta": self.expectation.ready_at(record, engine.loading, engine.processes.age_s),
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
        if other := self._starting_beside(record):
            self._wait(record, f"waits for {other}: engines of one GPU start one after another")
            return
        if held := gpus.why_no_room(record.shares):
            self._wait_for_place(record, known("gpu_in_use", held))
            return
        port = self._choose_port(record)
        if port is None:
            return
        self.waiting_since.pop(record.instance_id, None)
        host, key = self.settings.node_address, secrets.token_urlsafe(32)
        # `starting` already: of a start that was announced, nothing was spawned.
        again = record.status is Status.BACKOFF
        last = max(record.run, engine.facts.run)
        run = last + 1 if again else max(last, 1)
        chosen = replace(record, host=host, port=port, engine_key=key, run=run, ready_at=None)
        told = {
            "run": run,
            "restarts": run - 1,
            "host": host,
            "port": port,
            "engine_key": key,
            **_OF_THE_RUN_BEFORE,
            **_AT_LAUNCH,
        }
        reason = f"restart {run - 1}, after: {record.cause}" if again else ""
        if not self.write(record, Status.STARTING, reason=reason, **told):
            return
        self.spawned.add(record.instance_id)
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
            cause = known("not_spawned", f"could not be spawned: {error}")
            cause = replace(cause, permanent=isinstance(error, ValueError))
            self._crashed(chosen, cause, Observation(remains=Remains.GONE))

    def _choose_port(self, record: Instance) -> int | None:
        first = self.settings.vllm_base_port
        ports = range(first, first + self.settings.vllm_max_instances + 1)
        try:
            port = choose_port(self.settings.node_address, ports, self.taken)
        except NoCapacity as error:
            self._wait_for_place(record, known("port_taken", str(error)))
            return None
        self.taken.add(port)  # the next start of this look cannot see it held yet
        return port

    def _starting_beside(self, record: Instance) -> str:
        """Return which other instance starts on one of the same GPUs; "" if none does.

        vLLM looks once at what is free, and then takes it: two at a time would both fail.
        """
        wanted = set(record.gpus)
        return next(
            (
                other.instance_id
                for other in self.node_records
                if other.instance_id != record.instance_id
                and (other.status is Status.STARTING or other.instance_id in self.spawned)
                and wanted.intersection(other.gpus)
            ),
            "",
        )

    def _wait(self, record: Instance, reason: str) -> None:
        if record.reason != reason:
            self.write(record, record.status, reason=reason)

    def _wait_for_place(self, record: Instance, cause: Cause) -> None:
        since = self.waiting_since.setdefault(record.instance_id, monotonic())
        if monotonic() - since > self.patience.start_stall:
            self._fail(record, cause)
        else:
            self._wait(record, cause.reason)

    def _adopt(self, record: Instance, engine: Engine, _: Observation) -> None:
        launch = engine.facts.launch or {}
        told = {"host": launch["host"], "port": launch["port"], "engine_key": launch["key"]}
        told |= {"run": engine.facts.run, "restarts": engine.facts.run - 1, "retry_at": None}
        self.write(record, Status.STARTING, reason="", **told, **_process(engine))

    def _mark_running(self, record: Instance, engine: Engine, _: Observation) -> None:
        age_s = engine.processes.age_s
        if not self.write(record, Status.RUNNING, reason="", **NOT_LOADING, **_process(engine)):
            return
        # Of one that was unhealthy, or became ready unseen, its age is not what its start took.
        if record.status is Status.STARTING and engine.processes.spawned_here:
            self.expectation.learn(record, engine.loading, age_s)

    def _begin_stop(self, record: Instance, engine: Engine, _: Observation) -> None:
        noted = engine.facts.stop_note or {"reason": "what is left of its engine does not end"}
        reason = record.stop_reason or noted["reason"]
        told = {"reason": reason, "retry_at": None, **NOT_LOADING}
        if self.write(record, Status.STOPPING, **told):
            if record.status is Status.STOP_FAILED:
                engine.begin_stop_again()
            engine.begin_stop()

    def _terminate(self, record: Instance, engine: Engine, _: Observation) -> None:
        engine.terminate(record.reason, STOPPED)

    def _kill(self, record: Instance, engine: Engine, _: Observation) -> None:
        if left := engine.processes.kill():
            log.warning("instance %s: pids %s resist SIGKILL", record.instance_id, sorted(left))

    def _mark_stopped(self, record: Instance, engine: Engine, seen: Observation) -> None:
        self.write(record, Status.STOPPED, port=None, pid=None, exit=seen.exit)
        engine.log.close()

    def _mark_stop_failed(self, record: Instance, engine: Engine, _: Observation) -> None:
        left = what_is_left(engine.processes.members(), record)
        kept = f"its claim on {record.node} is kept; DELETE it again to try once more"
        self.write(record, Status.STOP_FAILED, reason=f"{left}; {kept}")

    def _mark_unhealthy(self, record: Instance, _: Engine, seen: Observation) -> None:
        reason = seen.hung or "it has ended: what is left of it is ended, then it is told how"
        log.warning("instance %s: %s", record.instance_id, reason)
        self.write(record, Status.UNHEALTHY, reason=reason)

    def _end_hung(self, record: Instance, engine: Engine, seen: Observation) -> None:
        engine.terminate(seen.hung or record.reason, BACKOFF, cause="engine_hung")

    def _give_up_start(self, record: Instance, engine: Engine, _: Observation) -> None:
        stalled = (
            f"no progress for {self.patience.start_stall:g} s in stage {engine.loading.load.stage}"
        )
        log.warning("instance %s: %s", record.instance_id, stalled)
        engine.terminate(stalled, BACKOFF, cause="start_stalled")

    def _go_on_ending(self, _: Instance, engine: Engine, __: Observation) -> None:
        engine.go_on_ending()

    def _mark_crashed(self, record: Instance, engine: Engine, seen: Observation) -> None:
        told = {"exit": seen.exit, "last_log": engine.log.last_lines[-LAST_LOG_LINES:]}
        self._crashed(record, self._cause(record, engine, seen), seen, **told)

    def _crashed(self, record: Instance, cause: Cause, seen: Observation, **fields: object) -> None:
        now = self.store.now()
        verdict = after_crash(record, cause, now, self.restarts, random.random())  # noqa: S311
        told = {
            "crashes": verdict.crashes,
            "failed_starts": verdict.failed_starts,
            "backoff_step": verdict.backoff_step,
            "first_cause": verdict.first_cause,
            "first_reason": verdict.first_reason,
            **fields,
        }
        if verdict.retry_in is not None:
            reason = f"{cause.reason}; starts again in {verdict.retry_in:.3g} s"
            retry_at = now + verdict.retry_in
            self._end_run(record, Status.BACKOFF, cause, reason, retry_at=retry_at, **told)
            return
        reason = cause.reason if cause.permanent else f"{cause.reason}; {verdict.why}"
        if seen.remains is Remains.ENDING:  # `failed` says that nothing of it is left
            self._say_it_is_dead(record, cause, reason)
        else:
            self._end_run(record, Status.FAILED, cause, reason, **told)

    def _say_it_is_dead(self, record: Instance, cause: Cause, reason: str) -> None:
        """Have requests go elsewhere and the reason be known, while the rest is cleared up."""
        status = Status.UNHEALTHY if record.status is Status.RUNNING else record.status
        if (record.status, record.reason) != (status, reason):
            self.write(record, status, reason=reason, cause=cause.code, advice=cause.advice)

    def _cause(self, record: Instance, engine: Engine, seen: Observation) -> Cause:
        note = engine.facts.stop_note
        if note is not None:
            return known(note.get("cause") or "start_stalled", note["reason"])
        if seen.exit is None:
            return _without_exit(record, engine)
        pid = None if engine.processes.leader is None else engine.processes.leader.pid
        return cause_of_death(
            seen.exit,
            engine.log.last_lines,
            was_ready=record.status is not Status.STARTING,
            out_of_memory=self.oom.struck(pid, engine.log.last_lines, engine.processes.age_s),
        )

    def _fail(self, record: Instance, cause: Cause) -> None:
        self._end_run(record, Status.FAILED, cause, cause.reason)

    def _end_run(
        self, record: Instance, status: Status, cause: Cause, reason: str, **fields: object
    ) -> None:
        told = {"reason": reason, "cause": cause.code, "advice": cause.advice}
        self.write(record, status, **told, **_OF_NO_RUN | NOT_LOADING | fields)


def _without_exit(record: Instance, engine: Engine) -> Cause:
    """Return why nothing says how the engine ended, which its shim writes down."""
    ran_before = record.pid is not None and record.boot_id != process_tree.boot_id()
    if engine.facts.rebooted or ran_before:  # the run directory may be gone by that, too
        return known("node_rebooted", "the machine was started anew while it ran")
    if engine.processes.shim_ended_well:
        return known("disk_full", "it ended, and how it did could not be written into RUN_DIR")
    words = f": {engine.facts.shim_words}" if engine.facts.shim_words else ""
    if engine.processes.leader is None:
        return known("shim_lost", f"its shim ended before it had spawned the engine{words}")
    was_killed = "its shim was killed, and no reboot did it; what ran of the engine was ended"
    return known("shim_lost", was_killed + words)


def _process(engine: Engine) -> dict[str, object]:
    leader = engine.processes.leader
    if leader is None:
        return {}
    return {
        "pid": leader.pid,
        "start_time": leader.start_time,
        "boot_id": process_tree.boot_id(),
    }
