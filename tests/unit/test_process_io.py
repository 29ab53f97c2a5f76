"""What processes read and write, as the kernel counts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from workers.process_io import bytes_moved

MIB = 2**20
COPY = """
import subprocess, sys
data = open(sys.argv[1], "rb").read()
open(sys.argv[1] + ".copy", "wb").write(data)
subprocess.run([sys.executable, "-c", "import sys; open(sys.argv[1], 'rb').read()", sys.argv[1]])
print("done", flush=True)
sys.stdin.read()
"""


def test_what_is_read_and_written_counts_and_what_an_ended_child_read(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(8 * MIB))
    command = [sys.executable, "-c", COPY, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"done\n"
        moved = bytes_moved([process.pid])
        process.stdin.close()
    assert 24 * MIB <= moved < 40 * MIB


def test_a_process_that_has_ended_has_moved_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert bytes_moved([process.pid]) == 0


def test_several_processes_are_added_up() -> None:
    one = bytes_moved([os.getpid()])
    assert bytes_moved([os.getpid(), os.getpid()]) >= 2 * one > 0
