"""The shape of log lines."""

import subprocess
import sys

from shared.settings import ROOT


def lines(code: str) -> list[str]:
    """Return what a process of its own logs, without the time."""
    done = subprocess.run(
        [sys.executable, "-c", f"import logging; from shared.logs import log_to_stderr\n{code}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [line.split(" ", 2)[2] for line in done.stderr.splitlines()]


def test_a_line_says_how_bad_who_and_what() -> None:
    code = "log_to_stderr(debug=False); logging.getLogger('web.x').warning('%s is so', 'it')"
    assert lines(code) == ["WARNING web.x: it is so"]


def test_debug_lines_come_only_if_wanted() -> None:
    code = "; logging.debug('d'); logging.info('i')"
    assert lines(f"log_to_stderr(debug=False){code}") == ["INFO root: i"]
    assert lines(f"log_to_stderr(debug=True){code}") == ["DEBUG root: d", "INFO root: i"]


def test_a_filter_may_end_the_line() -> None:
    code = """
class Named(logging.Filter):
    def filter(self, record):
        record.request = " [request 1]"
        return True
log_to_stderr(debug=False, filters=[Named()])
logging.error("oh")
"""
    assert lines(code) == ["ERROR root: oh [request 1]"]


def test_doing_it_twice_is_harmless() -> None:
    code = "log_to_stderr(debug=False); log_to_stderr(debug=False); logging.error('oh')"
    assert lines(code) == ["ERROR root: oh"]
