"""Why an engine ended, judged from its exit, its log and what the kernel says."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from shared.domain.cause import Cause
from shared.domain.instance import Exit
from workers.causes.codes import CAUSES
from workers.causes.messages import MESSAGES, Message

_LINE_CHARS = 600  # searched: an error says early what it is
QUOTE_CHARS = 400  # of a log line in a reason: some list every architecture there is

_PREFIX = re.compile(
    r"^(?:\([^)]*\) )?(?:(?:ERROR|CRITICAL|WARNING) \d\d-\d\d [\d:]+ \[[^\]]*\] )?"
)
# A warning may quote the very error that it warns of, and requests are logged with their text.
_NO_ERROR = re.compile(
    r"^(?:\([^)]*\) )?(?:(?:INFO|DEBUG|WARNING) \d\d-\d\d |(?:INFO|DEBUG|WARNING): |\[[IW]\d{4} )"
    r"|Warning: "
)
_CODE = re.compile(r"^ {4}|^  File ")  # of a traceback: it names errors that were not raised
# pydantic says on a line of its own which field it means
_FIELD = re.compile(r"^\w+(?:\.\w+)*$")
_WRONG_FIELD = re.compile(r"^  Input should be ")
_EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception|Failure|\.error)\b: \S|\berror: ")
_SAYS_NO_MORE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|CancelledError"
    r"|EngineDeadError|EngineCore encountered an issue|Executor failed"
)
# v1/executor/multiproc_executor.py, v1/engine/utils.py: the end of one of its processes
_CHILD_ENDED = re.compile(
    r"died unexpectedly \(exit code: -(\d+)\)|Failed core proc\(s\): \{[^}]*: -(\d+)"
)
# v1/engine/core_client.py. After this the first process exits with status 0, as if all were well.
_CORE_GONE = re.compile(r"engine core exited unexpectedly")
_OF_THE_CORE = re.compile(r"^\((?:EngineCore|(?:Vllm)?Worker)\w*[ )]")
_BROKE_DOWN = {
    signal.SIGILL: "this processor lacks instructions that this vLLM was built for: set "
    "VLLM_COMMAND to one built for it",
    signal.SIGBUS: "give the node a larger /dev/shm, and check that no file of the model shrank",
    signal.SIGABRT: "",
    signal.SIGFPE: "",
    signal.SIGSEGV: "",
}
_ASKED_TO_END = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def cause_of_death(
    ended: Exit, last_log: Sequence[str], *, was_ready: bool = False, out_of_memory: str = ""
) -> Cause:
    """Return why an engine that was not told to stop has ended.

    Args:
        ended: how its first process ended.
        last_log: its last log lines, oldest first; vLLM's tracebacks take hundreds.
        was_ready: whether it answered before. Then only what such an engine dies of counts: its
            callers can have it log other errors.
        out_of_memory: what the kernel says of having killed for want of memory, if it does.
    """
    last_log = [line[:_LINE_CHARS] for line in last_log]
    said = _errors(last_log)
    number, told = _fatal_signal(ended, last_log)
    if out_of_memory and number == signal.SIGKILL:
        return _cause("host_out_of_memory", ended, out_of_memory)
    if not (was_ready and ended.signal):  # a signal from outside is not told by the log
        for message in MESSAGES:
            if (message.serving or not was_ready) and (line := _told_by(message, said, last_log)):
                return _cause(message.code, ended, line, message.advice)
    if number is not None:
        return _by_signal(number, ended, told)
    error = _last_error(said)
    return _cause("unknown" if error or ended.code else "terminated", ended, error)


def known(code: str, reason: str, advice: str = "") -> Cause:
    """Return the cause with this code, and what is known of it.

    Args:
        code: one of CAUSES.
        reason: one line: what happened.
        advice: where more can be said than the cause's own.
    """
    what = CAUSES[code]
    return Cause(code, reason, advice or what.advice, what.permanent)


def _errors(last_log: Sequence[str]) -> list[str]:
    lines = [_PREFIX.sub("", line) for line in last_log if not _NO_ERROR.search(line)]
    said = [line for line in lines if not _CODE.search(line)]
    for number in range(1, len(said)):
        if _WRONG_FIELD.search(said[number]) and _FIELD.search(said[number - 1]):
            said[number] = f"  {said[number - 1]}: {said[number].strip()}"
    return said


def _cause(code: str, ended: Exit, told: str, advice: str = "") -> Cause:
    quote = re.sub(r" \[type=.*", "", told).strip()[:QUOTE_CHARS]
    return known(code, f"engine {ended}: {quote}" if quote else f"engine {ended}", advice)


def _fatal_signal(ended: Exit, last_log: Sequence[str]) -> tuple[int | None, str]:
    """Return the signal that ended the engine, and the line that tells it of a process of it."""
    if ended.signal is not None:
        return ended.signal, ""
    for line in last_log:
        if match := _CHILD_ENDED.search(line):
            return int(match[1] or match[2]), _PREFIX.sub("", line)
    gone = next((line for line in last_log if _CORE_GONE.search(line)), None)
    if gone is None or any(_tells_an_error(line) for line in last_log if _OF_THE_CORE.search(line)):
        return None, ""
    return signal.SIGKILL, _PREFIX.sub("", gone)  # nothing else silences it


def _tells_an_error(line: str) -> bool:
    return not _NO_ERROR.search(line) and bool(_EXCEPTION.search(_PREFIX.sub("", line)))


def _told_by(message: Message, said: Sequence[str], last_log: Sequence[str]) -> str:
    if message.place and not any(re.search(message.place, line) for line in last_log):
        return ""
    return next((line for line in said if re.search(message.pattern, line)), "")


def _by_signal(number: int, ended: Exit, told: str) -> Cause:
    if number in _BROKE_DOWN:
        return _cause("crashed", ended, told, _BROKE_DOWN[signal.Signals(number)])
    return _cause("terminated" if number in _ASKED_TO_END else "killed", ended, told)


def _last_error(said: Sequence[str]) -> str:
    errors = [line for line in said if _EXCEPTION.search(line)]
    telling = [line for line in errors if not _SAYS_NO_MORE.search(line)]
    return next(reversed(telling or errors), "")
