"""Give an engine environment libnuma.so.1 where the machine has none.

vLLM for the CPU needs it, no Python package brings it, and a fresh Debian does not have it.
Debian's own package holds the one file; it is fetched and unpacked into the environment, without
root.
"""

import shutil
from pathlib import Path

from workers.provision.debian import fetch
from workers.provision.errors import ProvisionError
from workers.provision.steps import Steps

LIBRARY = "libnuma.so.1"
PACKAGE = "libnuma1"
ASK = f"import ctypes; ctypes.CDLL('{LIBRARY}')"


def provide_libnuma(environment: Path, workspace: Path, steps: Steps) -> None:
    """Leave an environment whose Python finds libnuma, the machine's or one of its own.

    Raises:
        ProvisionError: neither; says what to install.
    """
    python = str(environment / "bin" / "python")
    if steps.attempt(f"looking for {LIBRARY}", [python, "-c", ASK]).status == 0:
        return
    unpacked = fetch(PACKAGE, f"usr/lib/*/{LIBRARY}", workspace, steps)
    if unpacked is None:
        raise ProvisionError(
            f"vLLM for the CPU needs {LIBRARY}, which this machine does not have: install "
            f"{PACKAGE} (Debian, Ubuntu) or numactl-libs (Fedora), then run this again"
        )
    own = environment / "lib" / LIBRARY
    shutil.copyfile(unpacked, own)
    preload(own, next(environment.glob("lib/python3*/site-packages")))
    steps.require(f"using {LIBRARY} of Debian's package {PACKAGE}", [python, "-c", ASK])


def preload(library: Path, site_packages: Path) -> None:
    """Have each Python of the environment load `library` as it starts.

    The loader takes a library that is loaded already for any later need of its name, so vLLM's own
    extension finds it, in its child processes too, and no LD_LIBRARY_PATH is needed.
    """
    line = f"import ctypes; ctypes.CDLL({str(library)!r}, mode=ctypes.RTLD_GLOBAL)\n"
    (site_packages / "fleet_libnuma.pth").write_text(line, encoding="utf-8")
