"""The compiled part of the relay: `python -m web.relay.compiled` makes it, where a compiler is.

Only a C compiler is needed, no headers of Python: what is made is a plain library of a few kB. Its
name holds the hash of its source, so that one made of another source is never taken for it.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

_SOURCE = Path(__file__).with_name("pump.c")
_FLAGS = ("-O2", "-Wall", "-Wextra", "-shared", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")


def library_path() -> Path:
    """Return where the library of this source is, once it has been made."""
    digest = sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    return Path(sys.prefix) / "lib" / f"vllm-fleet-pump-{digest}.so"


@cache
def library() -> ctypes.PyDLL | None:
    """Return the library, or None if it was not made, or not for this machine.

    Its functions never wait, so they keep Python's lock: letting go of it would cost more.
    """
    try:
        found = ctypes.PyDLL(str(library_path()))
    except OSError:
        return None
    found.pump_new.restype = ctypes.c_void_p
    found.pump_new.argtypes = (ctypes.c_int, ctypes.c_void_p)
    found.pump_descriptor.argtypes = (ctypes.c_void_p,)
    found.pump_take.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int)
    found.pump_leave.argtypes = (ctypes.c_void_p, ctypes.c_int)
    found.pump_leave.restype = None
    found.pump_go_on.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    found.pump_whole_chunks.argtypes = (ctypes.c_char_p, ctypes.c_long)
    return found


def make() -> str:
    """Make the library if it can be made; return what came of it, as a line for people."""
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return "relay: no C compiler here, so streams go through Python (as correct, more CPU)"
    try:
        why = _compile(compiler, library_path())
    except OSError as error:
        why = str(error)
    if why:
        return f"relay: {compiler} failed ({why}), so streams go through Python (more CPU)"
    return f"relay: compiled {_SOURCE.name}"


def _compile(compiler: str, target: Path) -> str:
    """Make the library; return why it was not, else an empty string."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder:  # another set-up may be at it, too
        draft = Path(folder) / target.name
        ran = subprocess.run(
            [compiler, *_FLAGS, "-o", str(draft), str(_SOURCE)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if ran.returncode != 0:
            return next(iter(ran.stderr.splitlines()), "no reason given")
        draft.replace(target)
    return ""


if __name__ == "__main__":
    print(make())
