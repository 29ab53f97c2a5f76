"""Every command and every curl line of the READMEs, run as a newcomer would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from shared.settings import ROOT
from tests.demo.fleet import Fleet, running_fleet
from tests.integration.harness import processes_of

_CURL = "command curl" if shutil.which("curl") else f"{sys.executable} -m tests.e2e.curl"
READMES = ("README.md", "README_zh.md")
_RUN_ELSEWHERE = {
    "make demo",  # below
    "make test",  # this very run; .ci/run calls it
    "make run",  # the fixture `fleet`
}
_KEYS = (
    "flask --app web keys"  # tests/integration/test_keys.py: a key would close this fleet to others
)


def blocks(readme: str, language: str) -> list[str]:
    """Return the code blocks of a README."""
    text = (ROOT / readme).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_every_command_is_one_that_is_run_here() -> None:
    for readme in READMES:
        for block in blocks(readme, "bash"):
            assert block.strip() in _RUN_ELSEWHERE or "curl" in block or _KEYS in block, block


def test_both_readmes_have_the_same_commands() -> None:
    english, chinese = (blocks(readme, "bash") for readme in READMES)
    assert english == chinese
    assert blocks("README.md", "python") == blocks("README_zh.md", "python")


def test_ci_calls_make_test() -> None:
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("exec make test")


def test_the_curl_lines_work_in_their_order(tmp_path: Path) -> None:
    # A fleet of its own: they drain its node, which stops all that runs there.
    with running_fleet(tmp_path / "run", {}, command=["make", "run"]) as fleet:
        answers = run_the_curl_lines(fleet)
    for expected in (
        '"status":"running"', "chat.completion.chunk", "Paris", "GET /v1/models HTTP/1.1",
        '"status":"deleted"', '"redis":"ok"',
    ):  # fmt: skip
        assert expected in answers, (expected, answers)


def run_the_curl_lines(fleet: Fleet) -> str:
    """Run all curl lines, and the lines for the SDK before the end; return what they print."""
    lines = [
        block for block in blocks("README.md", "bash") if "curl" in block and _KEYS not in block
    ]
    sdk = "\n".join(blocks("README.md", "python"))
    before_the_end = next(n for n, line in enumerate(lines) if "DELETE" in line)
    lines.insert(
        before_the_end,
        f'ID=$ID {sys.executable} - <<"END"\nimport os\nID = os.environ["ID"]\n{sdk}\nEND\n',
    )
    script = f'set -eu\ncurl() {{ {_CURL} --fail-with-body -sS "$@"; echo; }}\n'
    script += "".join(f"echo '## {n}'\n{line}" for n, line in enumerate(lines))
    port = fleet.base.rsplit(":", 1)[1]
    ran = subprocess.run(
        ["bash", "-c", script.replace("localhost:5000", f"localhost:{port}")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_make_demo_does_the_main_job_and_leaves_nothing(fleet: Fleet) -> None:
    del fleet  # both at once: the demo finds ports that are free
    ran = subprocess.run(
        ["make", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "MAKEFLAGS": ""},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for shown in ("starting: weights", "running", "Paris", "idle for 8 s", "everything has ended"):
        assert shown in ran.stdout, ran.stdout
    assert processes_of(ROOT / ".run" / "demo") == []


def test_make_help_lists_what_there_is() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("make demo", "make run", "make test", "make check"):
        assert target in shown.stdout


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with running_fleet(tmp_path / "run", {}, command=["make", "run"]) as second:
        assert second.stop() < 20
    assert processes_of(tmp_path) == []
