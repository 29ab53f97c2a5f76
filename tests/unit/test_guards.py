"""What the project promises about itself: its Procfile, and who imports what."""

import subprocess
import sys

import pytest
from honcho.environ import parse_procfile

from shared.settings import ROOT

DOMAIN = [
    "backoff",
    "catalogue",
    "catalogue_text",
    "command_line",
    "cause",
    "choice",
    "drain",
    "engine_env",
    "eta",
    "eviction",
    "expiry",
    "fit",
    "gpu_names",
    "health",
    "instance",
    "key",
    "line",
    "models",
    "node",
    "outlook",
    "params",
    "placement",
    "policy",
    "rebuild",
    "reconcile",
    "scaling",
    "spelling",
    "unsafe",
    "vllm_flags",
    "wanted",
    "yaml_values",
]


def imported_by(module: str) -> set[str]:
    """Return the top-level names of all modules that importing `module` pulls in."""
    code = (
        f"import sys; before = set(sys.modules); import {module}; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def procfile() -> dict[str, str]:
    """Return the commands of the Procfile, by name."""
    return dict(parse_procfile((ROOT / "Procfile").read_text()).processes)


def test_the_procfile_names_every_process() -> None:
    assert set(procfile()) == {"redis", "web", "worker", "beat", "flower"}


@pytest.mark.parametrize("name", ["redis", "web", "worker", "beat", "flower"])
def test_a_process_replaces_its_shell_so_that_signals_reach_it(name: str) -> None:
    assert procfile()[name].startswith("exec ")


def test_the_domain_has_no_other_module() -> None:
    files = {path.stem for path in (ROOT / "shared/domain").glob("*.py")}
    assert files == {"__init__", *DOMAIN}


@pytest.mark.parametrize("module", DOMAIN)
def test_the_domain_needs_no_network_and_no_framework(module: str) -> None:
    pulled_in = imported_by(f"shared.domain.{module}")
    assert not pulled_in & {"redis", "flask", "celery", "kombu", "requests", "dotenv", "socket"}


def test_the_domain_needs_nothing_but_the_standard_library() -> None:
    pulled_in = imported_by("shared.domain.reconcile")
    assert pulled_in <= sys.stdlib_module_names | {"shared"}


def test_the_shim_needs_nothing_but_the_standard_library() -> None:
    assert imported_by("workers.shim") <= sys.stdlib_module_names | {"workers"}


def test_the_web_tier_needs_nothing_of_the_workers() -> None:
    assert "workers" not in imported_by("web.app")


def test_the_web_package_itself_costs_nothing() -> None:
    assert imported_by("web") <= sys.stdlib_module_names | {"web"}


def test_the_command_line_needs_no_server_and_no_celery() -> None:
    assert not imported_by("web.cli") & {"gunicorn", "celery", "kombu"}


def test_the_workers_need_nothing_of_the_web_tier() -> None:
    assert not imported_by("workers.tasks") & {"web", "flask", "gunicorn"}
