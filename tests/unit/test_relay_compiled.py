"""The compiled part of the relay is made where it can be; elsewhere set-up goes on without it."""

from __future__ import annotations

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from web.relay import compiled

_FOUND = any(map(shutil.which, ("cc", "gcc", "clang")))
needs_compiler = pytest.mark.skipif(not _FOUND, reason="no C compiler is here")


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    return tmp_path


def fake_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    compiler = folder / "bin" / "cc"
    compiler.parent.mkdir()
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:/usr/bin:/bin")


@needs_compiler
def test_it_is_made_and_found_and_nothing_else_is_left(prefix: Path) -> None:
    assert compiled.make() == "relay: compiled pump.c"
    assert list((prefix / "lib").iterdir()) == [compiled.library_path()]
    assert ctypes.PyDLL(str(compiled.library_path())).pump_whole_chunks(b"1\r\nx\r\n", 6)


def test_two_who_make_it_at_once_both_do(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a linker does to a file that is there, only slower.
    script = 'rm -f "$7"; exec 3> "$7"; echo half >&3; sleep 0.1; echo whole >&3'
    fake_compiler(prefix, monkeypatch, script)
    with ThreadPoolExecutor(4) as pool:
        lines = list(pool.map(lambda _: compiled.make(), range(4)))
    assert lines == ["relay: compiled pump.c"] * 4
    assert list((prefix / "lib").iterdir()) == [compiled.library_path()]
    assert compiled.library_path().read_text() == "half\nwhole\n"


def test_where_nothing_can_be_written_set_up_says_so(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(prefix, monkeypatch, "exit 0")
    (prefix / "lib").write_text("no folder")
    assert "streams go through Python" in compiled.make()


def test_a_compiler_that_fails_is_told_of_and_leaves_nothing(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(prefix, monkeypatch, "printf 'no \\377 headers\\n' >&2; exit 1")
    assert "headers), so streams go through Python" in compiled.make()
    assert list((prefix / "lib").iterdir()) == []


def test_without_a_compiler_set_up_goes_on(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(prefix))
    assert "no C compiler here" in compiled.make()
    assert not compiled.library_path().exists()
