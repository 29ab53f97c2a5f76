"""The supervisor's thread, as a part of the Celery worker.

A bootstep, because `stop` and `terminate` run at TERM, QUIT and fatal errors, where Celery's
signals do not all fire. Nothing depends on them: at KILL, engines live on and are adopted.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from time import monotonic

from celery import bootsteps
from celery.signals import worker_shutting_down

from shared.domain.node import Gpu
from shared.errors import Conflict, SettingsError, StoreUnavailable
from shared.settings import Settings
from shared.store import Store
from workers.gpus import gpus_of_node
from workers.supervisor import BUSY_PASS_S, Superseded, Supervisor
from workers.waker import Waker

_STORE_PAUSE_S = 1.0  # between tries while Redis does not answer
_CELERY_ENDS_S = 15.0  # after the supervisor has
_VERIFY_S = 15.0  # after SIGTERM's patience: SIGKILL, and seeing that nothing is left

FAILED, ALREADY_RUNS = 1, 3  # exit statuses of a worker

log = logging.getLogger(__name__)


class SupervisorThread:
    """Runs a supervisor until told to stop. The only thread of a worker that spawns processes."""

    def __init__(
        self, settings: Settings, store: Store, waker: Waker, freed: Callable[[], None]
    ) -> None:
        """Wire it; `freed` as for `Supervisor`."""
        self._settings = settings
        self._store = store
        self._waker = waker
        self._freed = freed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self.exit_status = 0
        """Of the worker: what it ends with where it did not end because it was told to."""

    def start(self) -> None:
        """Begin to look after the node."""
        self._thread.start()

    def begin_stop(self) -> None:
        """Begin to end it, and the engines unless KEEP_ENGINES; returns at once."""
        self._stopping.set()
        self._waker.ring()

    def stop(self) -> None:
        """End it as `begin_stop` does; blocks until the engines are gone."""
        self.begin_stop()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        self._look_after_the_node()
        # Celery may hang in its own heartbeat while Redis is frozen, and never end by itself.
        last_resort = threading.Timer(_CELERY_ENDS_S, os._exit, args=(1,))
        last_resort.daemon = True
        last_resort.start()

    def _look_after_the_node(self) -> None:
        try:
            supervisor = Supervisor(
                self._settings, self._store, self._gpus(), self._waker.ring, freed=self._freed
            )
            self._supervise(supervisor)
            self._leave(supervisor)
        except (Superseded, Conflict, SettingsError) as error:
            log.error("%s: this worker ends, engines stay", error)  # noqa: TRY400 - no fault
            self._end_worker(FAILED if isinstance(error, SettingsError) else ALREADY_RUNS)
        except Exception:  # a worker without a supervisor would be a node that lies
            log.exception("the supervisor cannot go on: this worker ends, engines stay")
            self._end_worker(FAILED)

    def _end_worker(self, exit_status: int) -> None:
        self.exit_status = exit_status
        os.kill(os.getpid(), signal.SIGTERM)

    def _gpus(self) -> tuple[Gpu, ...]:
        return gpus_of_node(self._settings.node_name, self._settings.node_fake_gpus)

    def _supervise(self, supervisor: Supervisor) -> None:
        self._until_answered(supervisor.announce)
        while not self._stopping.is_set():
            pause = self._until_answered(lambda: self._look(supervisor))
            self._waker.sleep(_STORE_PAUSE_S if pause is None else pause)

    def _look(self, supervisor: Supervisor) -> float:
        pause = supervisor.look()
        self._waker.watch(supervisor.watched_pids())
        return pause

    def _until_answered(self, ask: Callable[[], float | None]) -> float | None:
        told = False
        while not self._stopping.is_set():
            try:
                pause = ask()
            except StoreUnavailable as error:
                if not told:
                    log.warning("%s; engines go on, trying again every second", error)
                told = True
                self._stopping.wait(_STORE_PAUSE_S)
            except (Superseded, Conflict):
                raise
            except Exception:  # a record that cannot be read must not end supervision
                log.exception("could not look after the node; trying again")
                self._stopping.wait(_STORE_PAUSE_S)
            else:
                if told:
                    log.info("Redis answers again")
                return pause
        return None

    def _leave(self, supervisor: Supervisor) -> None:
        if not self._settings.keep_engines:
            self._end_engines(supervisor)
        try:
            supervisor.close()
        except StoreUnavailable as error:
            log.warning("%s: the node will be seen as lost", error)

    def _end_engines(self, supervisor: Supervisor) -> None:
        log.info("ending this node's engines (KEEP_ENGINES=true would leave them)")
        try:
            supervisor.stop_all(f"the worker of {self._settings.node_name} was stopped")
        except StoreUnavailable as error:
            log.warning("%s: engines end without being recorded", error)
        deadline = monotonic() + self._settings.stop_timeout_s + _VERIFY_S
        while monotonic() < deadline:
            if self._all_recorded(supervisor) and supervisor.idle:
                return
            self._waker.watch(supervisor.watched_pids())
            self._waker.sleep(BUSY_PASS_S)
        supervisor.kill_what_is_left()  # without the store, nobody else does for a dead shim
        log.error("some engines have not ended in time: what was left of them was killed")

    def _all_recorded(self, supervisor: Supervisor) -> bool:
        try:
            return supervisor.look() > BUSY_PASS_S
        except StoreUnavailable:
            return True  # nothing more can be; the run directories keep the reason
        except Exception:  # engines must end, whatever a record looks like
            log.exception("could not look after the node while ending its engines")
            return True


class SupervisorStep(bootsteps.StartStopStep):
    """Hangs the supervisor's thread into the worker's life."""

    requires = ("celery.worker.components:Pool",)
    thread: SupervisorThread | None = None  # set by workers.app before the worker starts

    def start(self, _parent: object) -> None:
        """Begin once the pool stands."""
        # Celery would end the engines and start itself anew by a path that is not a program.
        signal.signal(signal.SIGHUP, lambda *_: None)  # ignoring it would be inherited
        if self.thread is not None:
            # Before this step's own turn to stop, which a frozen Redis can put off for minutes.
            worker_shutting_down.connect(self._begin_stop)
            self.thread.start()

    def _begin_stop(self, **_: object) -> None:
        if self.thread is not None:
            self.thread.begin_stop()

    def stop(self, _parent: object) -> None:
        """End at SIGTERM and at fatal errors."""
        if self.thread is not None:
            self.thread.stop()

    def terminate(self, parent: object) -> None:
        """End at SIGQUIT."""
        self.stop(parent)
