"""An engine's log on disk: bounded, never in the way, and its last words kept."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic

import pytest

from workers.log_file import FILE_BYTES, LogFile

BLOCK = (b"x" * 99 + b"\n") * 655
LEFT_OUT = re.compile(rb"^\[(\d+) bytes left out: [^\n]*\]\n", re.MULTILINE)

Whole = Callable[[], bytes]


@pytest.fixture
def whole(tmp_path: Path) -> Whole:
    """Give a function that reads both files."""

    def read() -> bytes:
        paths = [tmp_path / "log.1", tmp_path / "log"]
        return b"".join(path.read_bytes() for path in paths if path.exists())

    return read


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    with closing(LogFile(tmp_path / "log", tmp_path / "log.1")) as log:
        yield log


def test_what_was_written_is_there_in_order(log: LogFile, whole: Whole) -> None:
    for piece in (b"a\nb", b"c\r", b"", b"d\n"):
        log.write(piece)
    log.close()
    assert whole() == b"a\nbc\rd\n"


def test_a_last_line_without_an_end_is_kept(log: LogFile, whole: Whole) -> None:
    log.write(b"a\nkilled in the middle of")
    log.close()
    assert whole() == b"a\nkilled in the middle of"


def test_a_second_writer_goes_on_where_the_first_ended(tmp_path: Path, whole: Whole) -> None:
    for line in (b"a\n", b"b\n"):
        with closing(LogFile(tmp_path / "log", tmp_path / "log.1")) as log:
            log.write(line)
    assert whole() == b"a\nb\n"


def test_a_start_of_any_speed_is_kept_whole_up_to_the_size_of_both_files(
    log: LogFile, whole: Whole
) -> None:
    blocks = FILE_BYTES // len(BLOCK)
    for number in range(blocks):
        log.write(BLOCK)
        if number % 16 == 0:  # a megabyte: the disk has a moment
            log.settle(20)
    log.close()
    assert whole() == BLOCK * blocks


def test_a_flood_is_bounded_keeps_its_last_words_and_says_what_is_left_out(
    tmp_path: Path, log: LogFile, whole: Whole
) -> None:
    written = 0
    begun = monotonic()
    while written < 500_000_000:
        log.write(BLOCK)
        written += len(BLOCK)
    took = monotonic() - begun
    log.write(b"the last word\n")
    log.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert max(sizes) <= FILE_BYTES
    kept = whole()
    assert kept.endswith(b"the last word\n")
    assert LEFT_OUT.search(kept)
    assert took < 5.0, "whoever writes has waited"
    lines = set(LEFT_OUT.sub(b"", kept).splitlines()[1:])  # the first may be half in a lost file
    assert lines == {b"x" * 99, b"the last word"}


def test_of_a_line_that_is_left_out_nothing_is_left_but_its_beginning(
    log: LogFile, whole: Whole
) -> None:
    for number in range(400):
        begin = b"<%d " % number
        log.write(begin + b"y" * 300_000)
        log.write(b"z" * 300_000 + b" %d>\n" % number)
    log.close()
    lines = LEFT_OUT.sub(b"", whole()).splitlines()[1:]
    assert lines
    assert all(re.fullmatch(rb"<(\d+) y+(?:z+ \1>)?", line) for line in lines if line)


def test_a_full_disk_hinders_nobody_and_is_forgotten_once_it_has_room(
    tmp_path: Path, whole: Whole
) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    with closing(LogFile(tmp_path / "log", tmp_path / "log.1")) as log:
        log.write(b"lost\n")
        log.settle(20)
        log._file = None  # noqa: SLF001 - as after a rotation
        (tmp_path / "log").unlink()
        log.write(b"kept\n")
    assert LEFT_OUT.match(whole())
    assert whole().endswith(b"kept\n")
