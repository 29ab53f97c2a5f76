"""Following an engine's log: no line lost, none said twice, whatever happens to the file."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from workers.log_tail import LogTail, clean
from workers.run_directory import RunDirectory

Reader = Callable[[], LogTail]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "engine")
    run.make()
    return run


@pytest.fixture
def reader(run: RunDirectory) -> Iterator[Reader]:
    """Give a function that makes a reader of the log; let go of their files."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(LogTail(run)))


def write(run: RunDirectory, text: str) -> None:
    """Add to the log."""
    with run.log(1).open("ab") as log:
        log.write(text.encode())


def rotate(run: RunDirectory) -> None:
    """Begin a new log file, as the shim does."""
    run.log(1).rename(run.old_log(1))
    run.log(1).touch()


def read_all(tail: LogTail) -> list[str]:
    """Read until there is nothing new, twice in a row."""
    lines: list[str] = []
    empty = 0
    while empty < 2:
        new = tail.read()
        empty = 0 if new else empty + 1
        lines += new
    return lines


def test_without_a_log_there_are_no_lines(reader: Reader) -> None:
    assert reader().read() == []


def test_a_log_that_appears_later_is_read_from_its_beginning(
    run: RunDirectory, reader: Reader
) -> None:
    tail = reader()
    tail.read()
    write(run, "a\n")
    assert tail.read() == ["a"]


def test_new_lines_are_read_once(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    write(run, "a\nb\n")
    first = tail.read()
    write(run, "c\n")
    assert (first, tail.read(), tail.read()) == (["a", "b"], ["c"], [])


def test_a_line_is_read_when_it_is_whole(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    write(run, "a\nhal")
    first = tail.read()
    write(run, "f\n")
    assert (first, tail.read()) == (["a"], ["half"])


def test_a_character_that_comes_in_two_parts_stays_whole(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    with run.log(1).open("wb", buffering=0) as log:
        log.write("千".encode()[:1])
        first = tail.read()
        log.write("千".encode()[1:] + b"\n")
    assert (first, tail.read()) == ([], ["千"])


def test_each_state_of_a_progress_bar_is_a_line(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    write(run, "\r  0%|  |\r 50%|█ |\r100%|██|\nnext\n")
    assert tail.read() == ["  0%|  |", " 50%|█ |", "100%|██|", "next"]


def test_empty_lines_are_left_out(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    write(run, "a\n\n   \r\nb\n")
    assert tail.read() == ["a", "b"]


def test_rotation_loses_no_line(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    write(run, "a\n")
    first = tail.read()
    write(run, "b\n")
    rotate(run)
    write(run, "c\n")
    assert (first, read_all(tail)) == (["a"], ["b", "c"])


def test_a_line_across_a_rotation_stays_whole(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    write(run, "a\nhal")
    first = tail.read()
    rotate(run)
    write(run, "f\nc\n")
    assert (first, read_all(tail)) == (["a"], ["half", "c"])


def test_a_restarted_reader_goes_on_where_the_last_one_remembered(
    run: RunDirectory, reader: Reader
) -> None:
    write(run, "a\nb\nhal")
    before = reader()
    before.read()
    before.remember()
    before.close()
    write(run, "f\nc\n")
    after = reader()
    assert after.read() == ["half", "c"]


def test_what_was_not_remembered_is_read_again(run: RunDirectory, reader: Reader) -> None:
    write(run, "a\n")
    before = reader()
    before.read()
    before.remember()
    write(run, "b\n")
    before.read()
    before.close()
    after = reader()
    assert after.read() == ["b"]


def test_a_restart_after_a_rotation_reads_the_new_file_from_its_beginning(
    run: RunDirectory, reader: Reader
) -> None:
    write(run, "a" * 100 + "\n")
    before = reader()
    before.read()
    before.remember()
    before.close()
    rotate(run)
    write(run, "b\n")
    after = reader()
    assert read_all(after) == ["b"]


def test_a_restart_after_a_rotation_loses_no_line(run: RunDirectory, reader: Reader) -> None:
    write(run, "a\n")
    before = reader()
    before.read()
    before.remember()
    before.close()
    write(run, "b\n")
    rotate(run)
    write(run, "c\n")
    after = reader()
    assert read_all(after) == ["b", "c"]


def test_a_rotation_while_following_after_a_restart_reads_the_new_file_whole(
    run: RunDirectory, reader: Reader
) -> None:
    write(run, "a\nb\n")
    before = reader()
    before.read()
    before.remember()
    before.close()
    after = reader()
    after.read()
    rotate(run)
    write(run, "c\nd\ne\n")
    assert read_all(after) == ["c", "d", "e"]


def test_a_new_file_that_got_the_inode_of_an_old_one_is_read_from_its_beginning(
    run: RunDirectory, reader: Reader
) -> None:
    write(run, "a\n" * 50)
    before = reader()
    before.read()
    before.remember()
    before.close()
    after = reader()
    read_all(after)
    first = run.path / "first"
    run.log(1).rename(first)
    run.log(1).touch()
    read_all(after)
    rotate(run)
    first.write_text("")
    first.rename(run.log(1))
    write(run, "c\n")
    assert read_all(after) == ["c"]


def test_a_restart_in_the_middle_of_a_line_across_a_rotation_reads_on(run: RunDirectory) -> None:
    write(run, "a long line that")
    before = LogTail(run)
    before.read()
    rotate(run)
    write(run, " goes")
    read_all(before)
    before.remember()
    before.close()
    write(run, " on\nb\n")
    with closing(LogTail(run)) as after:
        assert read_all(after)[-1] == "b"


def test_remembering_before_anything_was_read_changes_nothing(
    run: RunDirectory, reader: Reader
) -> None:
    reader().remember()
    assert run.read("shipped") is None


def test_a_secret_is_blotted_out_before_a_line_is_cut(run: RunDirectory) -> None:
    tail = LogTail(run, lambda line: line.replace("secret", "*"))
    write(run, "x" * 8_190 + "secret\n")
    assert read_all(tail) == ["x" * 8_190 + "*"]
    tail.close()


def test_no_half_of_a_secret_comes_out_of_a_line_too_long_to_wait_for(run: RunDirectory) -> None:
    tail = LogTail(run, lambda line: line.replace("secret", "*"))
    write(run, "x" * 9_215 + "sec")
    first = tail.read()
    write(run, "ret and more\nnext\n")
    assert (first, read_all(tail)) == (["x" * 8_192], ["next"])
    tail.close()


def test_a_flood_is_skipped_and_said(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    write(run, "x" * 99 + "\n")
    tail.read()
    write(run, ("y" * 99 + "\n") * 20_000 + "last\n")
    lines = read_all(tail)
    assert lines[0].startswith("[lines skipped")
    assert lines[-1] == "last"
    assert len(lines) < 3_000


def test_a_line_without_end_is_cut_in_pieces(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    write(run, "x" * 10_000)
    assert [len(line) for line in tail.read()] == [8_192]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"\x1b[32mINFO\x1b[0m ready", "INFO ready"),
        (b"\x1b[1;31mbad\x1b[m", "bad"),
        (b"\x1b[?25l\x1b[2Kbar", "bar"),
        (b"a\x00b\x07c\x7f", "abc"),
        (b"a\tb", "a\tb"),
        (b"a   ", "a"),
        (b"   a", "   a"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("千问".encode(), "千问"),
        (b"x" * 9_000, "x" * 8_192),
        (b"", ""),
    ],
)
def test_a_line_is_cleaned(line: bytes, text: str) -> None:
    assert clean(line) == text


def test_the_end_has_a_last_line_without_an_end(run: RunDirectory, reader: Reader) -> None:
    tail = reader()
    write(run, "a\nb\nkilled in the middle of")
    assert tail.read_to_the_end() == ["a", "b", "killed in the middle of"]


@pytest.mark.parametrize("between", ["\n" * 600_000, "x" * 600_000 + "\n"])
def test_nothing_that_shows_no_line_hides_the_last_words(
    run: RunDirectory, reader: Reader, between: str
) -> None:
    tail = reader()
    write(run, f"a\n{between}b\nlast")
    assert tail.read_to_the_end()[-2:] == ["b", "last"]


def test_a_flood_is_not_gone_on_with_in_the_middle_of_a_line(run: RunDirectory) -> None:
    tail = LogTail(run, lambda line: line.replace("secret", "*"))
    write(run, "a\n")
    tail.read()
    write(run, "secret" * 400_000 + "\nnext\n")
    assert read_all(tail)[-1] == "next"
    write(run, "secret" * 400_000)
    lines = read_all(tail)
    assert not [line for line in lines if set(line) - set("*") and not line.startswith("[")]
    tail.close()
