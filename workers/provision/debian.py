"""Fetch a file out of one of Debian's packages, as an ordinary user."""

import shutil
from pathlib import Path

from workers.provision.steps import Steps


def has_apt() -> bool:
    """Tell whether this machine has Debian's tools."""
    return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


def fetch(package: str, pattern: str, workspace: Path, steps: Steps) -> Path | None:
    """Return the file of `package` that matches `pattern`, unpacked below `workspace`.

    None where there is no apt, no network, or no such file; what was said is in the log.
    """
    if not has_apt():
        return None
    folder = workspace / package
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    # Lists and cache of our own: an ordinary user may not write the machine's, and a fresh
    # machine's lists may be empty. The sandbox user of apt could not enter our folder.
    own = [
        f"-oDir::State::Lists={folder / 'lists'}",
        f"-oDir::Cache={folder / 'cache'}",
        "-oAPT::Sandbox::User=",
        "-oDebug::NoLocking=1",
    ]
    for what, words in (
        ("asking Debian for its list of packages", ["update"]),
        (f"downloading Debian's package {package}", ["download", package]),
    ):
        script = 'cd "$0" && exec apt-get "$@"'  # `download` writes to the current folder
        argv = ["sh", "-c", script, str(folder), *own, "--quiet", *words]
        if steps.attempt(what, argv).status != 0:
            return None
    deb = next(folder.glob(f"{package}_*.deb"), None)
    if deb is None:
        return None
    steps.require(f"unpacking {package}", ["dpkg-deb", "-x", str(deb), str(folder / "out")])
    return next((folder / "out").glob(pattern), None)
