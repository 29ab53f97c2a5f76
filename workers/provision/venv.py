"""Make a virtual environment, also on a Debian without the package python3-venv."""

import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from workers.provision.debian import fetch, has_apt
from workers.provision.errors import ProvisionError
from workers.provision.packages import has_pip, pip, this_python
from workers.provision.places import Places, shown
from workers.provision.progress import Progress
from workers.provision.steps import Steps

_NO_WAY = (
    "this Python can make no virtual environment: "
    "install the package python3-venv (apt install python3-venv)"
)
_PIP_PACKAGE = "python3-pip-whl"  # what python3-venv itself takes pip from


class Way(Enum):
    """How a virtual environment with pip in it can be made here."""

    VENV = "python3 -m venv"
    VIRTUALENV = "virtualenv, fetched by pip into a temporary folder"
    DEBIAN = "python3 -m venv without pip, and pip out of Debian's package"


def way_to_make(*, has_ensurepip: bool, has_pip: bool, has_apt: bool) -> Way:
    """Pick the way that needs the least.

    Raises:
        ProvisionError: there is none. Debian and Ubuntu split `ensurepip` off into python3-venv.
    """
    if has_ensurepip:
        return Way.VENV
    if has_pip:
        return Way.VIRTUALENV
    if has_apt:
        return Way.DEBIAN
    raise ProvisionError(_NO_WAY)


def is_whole(path: Path) -> bool:
    """Tell whether `path` is a virtual environment that was made to its end.

    The script `pip` is written last. `python` is a link, and no file once the Python that it points
    to is gone (an upgraded system): the environment has to be made anew then.
    """
    return (path / "bin" / "python").is_file() and (path / "bin" / "pip").is_file()


def provide_venv(path: Path, places: Places, progress: Progress) -> None:
    """Make a virtual environment at `path` unless a whole one is there.

    Raises:
        ProvisionError: it cannot be made, or `path` holds something else, which is left as it is.
    """
    path = path.absolute()
    if is_whole(path):
        progress.say(f"virtual environment: {shown(path)} (already there)")
        return
    if path.exists() and not (path / "pyvenv.cfg").is_file() and any(path.iterdir()):
        raise ProvisionError(f"{path} is there and is no virtual environment; remove or rename it")
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_name(f"{path.name}.log")
    log.unlink(missing_ok=True)
    make_venv(path, Steps(progress=progress, log=log, environ=places.environ), places.pip_words)
    log.unlink()
    progress.say(f"virtual environment: {shown(path)} (made)")


def make_venv(path: Path, steps: Steps, pip_words: Sequence[str]) -> None:
    """Make a virtual environment of the Python that runs this, with pip in it, at `path`.

    Raises:
        ProvisionError: it cannot be made.
    """
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    match way_to_make(has_ensurepip=has_ensurepip, has_pip=has_pip(), has_apt=has_apt()):
        case Way.VENV:
            steps.require(
                "making a virtual environment",
                [str(this_python()), "-I", "-m", "venv", str(path)],
            )
        case Way.VIRTUALENV:
            make_with_virtualenv(path, steps, pip_words)
        case Way.DEBIAN:
            make_with_debians_pip(path, steps)


def make_with_debians_pip(path: Path, steps: Steps) -> None:
    """Make a virtual environment at `path` with the pip of Debian's package, fetched without root.

    Raises:
        ProvisionError: the package could not be fetched; says what to install.
    """
    with tempfile.TemporaryDirectory(prefix="provision-") as folder:
        pattern = "usr/share/python-wheels/pip-*.whl"
        wheel = fetch(_PIP_PACKAGE, pattern, Path(folder), steps)
        if wheel is None:
            raise ProvisionError(_NO_WAY)
        steps.require(
            "making a virtual environment",
            [str(this_python()), "-I", "-m", "venv", "--without-pip", str(path)],
        )
        steps.require(
            "putting pip into it",
            # A wheel is an archive that Python can run from.
            [str(path / "bin" / "python"), f"{wheel}/pip", "install", "--no-index", str(wheel)],
        )


def make_with_virtualenv(path: Path, steps: Steps, pip_words: Sequence[str]) -> None:
    """Make a virtual environment at `path` with a virtualenv that is fetched, then thrown away.

    pip lets `--target` install beside a Python that is marked as managed by the system (PEP 668).

    Raises:
        ProvisionError: virtualenv could not be fetched, or failed.
    """
    python = str(this_python())
    with tempfile.TemporaryDirectory(prefix="provision-") as folder:
        steps.require(
            "fetching virtualenv, as this Python has no ensurepip",
            [*pip(this_python()), "install", "--target", folder, *pip_words, "virtualenv"],
        )
        steps.require(
            "making a virtual environment",
            [python, "-m", "virtualenv", "--python", python, str(path)],
            extra_env={"PYTHONPATH": folder},
        )
