"""Run commands one after another: a line for each to a person, their output to one log."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from workers.provision.errors import ProvisionError
from workers.provision.progress import Progress

TAIL_LINES = 20
TAIL_COLUMNS = 300  # pip lists every version of a package in one line
TICK_S = 1.0  # how often the elapsed seconds are shown anew
TERMINATE_GRACE_S = 10.0  # pip removes its temporary folders on SIGTERM


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended, and all it printed."""

    status: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """A series of commands that share a log and an environment."""

    progress: Progress
    log: Path
    environ: Mapping[str, str]
    # Every command inherits this lock's descriptor: should this process be killed, the lock stays
    # held until the command that it left behind has ended too.
    lock: int | None = None

    def attempt(
        self, what: str, argv: Sequence[str], *, extra_env: Mapping[str, str] | None = None
    ) -> Finished:
        """Run `argv` to its end, whatever its exit status, and return what it printed.

        A command that still runs when this is interrupted is ended first.
        """
        with self.log.open("ab") as sink:
            sink.write(f"\n== {what}\n".encode())
            sink.flush()
            begin = sink.tell()
            status = self._run(what, argv, sink.fileno(), extra_env or {})
        with self.log.open("rb") as written:
            written.seek(begin)
            return Finished(status, written.read().decode(errors="replace"))

    def require(
        self, what: str, argv: Sequence[str], *, extra_env: Mapping[str, str] | None = None
    ) -> Finished:
        """Run `argv` and return what it printed.

        Raises:
            ProvisionError: its exit status was not 0.
        """
        finished = self.attempt(what, argv, extra_env=extra_env)
        if finished.status != 0:
            raise self.failure(what, finished)
        return finished

    def failure(self, what: str, finished: Finished) -> ProvisionError:
        """Return the error that tells a person how `finished` failed."""
        return ProvisionError(
            f"failed with exit status {finished.status}: {what}",
            tail=last_lines(finished.output),
            log=self.log,
        )

    def _run(self, what: str, argv: Sequence[str], sink: int, extra_env: Mapping[str, str]) -> int:
        with (
            self.progress.step(what) as tick,
            Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**self.environ, **extra_env},
                pass_fds=() if self.lock is None else (self.lock,),
            ) as process,
        ):
            try:
                return _wait(process, tick)
            finally:
                _end(process)


def last_lines(output: str) -> list[str]:
    """Return the last lines of `output` that are not blank, few and short enough to read."""
    lines = [line[:TAIL_COLUMNS] for line in output.splitlines() if line.strip()]
    return lines[-TAIL_LINES:]


def _wait(process: Popen[bytes], tick: Callable[[], None]) -> int:
    while True:
        try:
            return process.wait(timeout=TICK_S)
        except subprocess.TimeoutExpired:
            tick()


def _end(process: Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=TERMINATE_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
