"""One run at a time in a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.provision.places import shown
from workers.provision.progress import Progress


@contextmanager
def only_run_in(folder: Path, progress: Progress) -> Iterator[int]:
    """Hold `folder` (made if need be) for this run; wait without limit while another run holds it.

    Yields the descriptor of the lock. The kernel gives the lock back when the last process that has
    the descriptor ends, so a run that was killed leaves nothing to clear away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"another run is at work in {shown(folder)}; waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
