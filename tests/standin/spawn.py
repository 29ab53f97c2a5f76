"""Start a child of the tree the way vLLM's children look from outside."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

_ROOT: Final = str(Path(__file__).resolve().parents[2])


class Orders(NamedTuple):
    """What a child is told on its command line."""

    model: str
    ready_at: float  # time.monotonic() of the whole machine at which the load should be over
    load_fault: str  # a key of faults.LOAD_FAULTS, or "" to load well
    ignore_sigterm: bool
    setsid_child: bool
    status_fd: int  # gets LOADED once, and its end tells the parent that the child is gone

    def to_json(self) -> str:
        """Return the orders as one argument."""
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the orders in `text`, as `to_json` wrote them."""
        return cls(**json.loads(text))


LOADED: Final = b"!"


def spawn(
    title: str,
    arguments: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start `child.py` with `title` as the first word of its command line.

    The environment holds only what the interpreter needs: setproctitle wipes that of vLLM's
    children, so a variable set by the fleet must not be found there. The folder is inherited.
    """
    return subprocess.Popen(
        [title, "-S", "-s", "-P", "-m", "tests.standin.child", *arguments],
        # With a made-up argv[0] and no PATH, the interpreter cannot find itself or its library.
        executable=Path("/proc/self/exe").readlink(),
        env=_bare_environment(),
        stdin=stdin,
        pass_fds=pass_fds,
        start_new_session=new_session,
    )


def is_frozen(pid: int) -> bool:
    """Return whether a process is stopped, as by SIGSTOP: proc(5), /proc/PID/stat."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it has ended
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def _bare_environment() -> dict[str, str]:
    """Return the interpreter's own variables; LD_LIBRARY_PATH where a shared build needs it."""
    bare = {"PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}", "PYTHONPATH": _ROOT}
    if library_path := os.environ.get("LD_LIBRARY_PATH"):
        bare["LD_LIBRARY_PATH"] = library_path
    return bare
