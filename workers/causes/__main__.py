"""`python -m workers.causes > docs/causes.md`: the causes and what tells them, for people."""

from __future__ import annotations

import sys

from workers.causes.codes import CAUSES
from workers.causes.messages import MESSAGES

_HEAD = """\
# Why an engine ended

*Written by `python -m workers.causes > docs/causes.md`.*

An engine that ends without having been asked to leaves a cause in its record: `cause`, a short
code for programs; `reason`, one line with how it ended and the log's own words; `advice`, one line
that names what to change; `last_log`, its last 50 lines. A permanent cause would end the next start
the same way, so there is no next start: the instance is `failed` at once. After any other it is
tried again with back-off.

## Causes

| `cause` | means | what to change | tried again |
|---|---|---|---|
"""

_MESSAGES = """
## How they are told

In this order, and the first that applies decides:

1. A start that stood still, or an engine that hung, was ended by its worker, which knows why.
2. A process of it was ended by SIGKILL and the kernel says that it was for want of memory. It names
   the process in its log (`/dev/kmsg`), which root may read, and others where
   `kernel.dmesg_restrict` is 0. Where the log may not be read, or names none of its processes (in
   a container they have other numbers), a count that grew in the last minute is taken for it:
   `oom_kill` of the worker's control group, else of the whole machine.
3. A message in the last 1,000 lines of the engine's log: those below, first to last. Lines of INFO
   and WARNING do not count, for they may quote an error or a caller's words. Of an engine that was
   ready before, only messages marked *serving* count, and none if a signal ended it.
4. The signal that ended it, or one of its processes: SIGTERM, SIGINT and SIGHUP are `terminated`,
   SIGSEGV, SIGABRT, SIGBUS, SIGILL and SIGFPE are `crashed`, SIGKILL and others are `killed`. Exit
   status 0 is `terminated` too.
5. `unknown`, with the last line of the log that looks like an error.

Messages are regular expressions, each with the file of vLLM 0.32.0 that holds its text, the package
it comes from, or an issue that quotes it. `tests/corpus/` holds real logs for them.

| `cause` | message | source | serving |
|---|---|---|---|
"""


def page() -> str:
    """Return docs/causes.md."""
    causes = [
        f"| `{code}` | {known.meaning} | {known.advice} | {'no' if known.permanent else 'yes'} |"
        for code, known in CAUSES.items()
    ]
    messages = [
        f"| `{message.code}` | `{_in_a_table(message.pattern)}` | {message.source} | "
        f"{'yes' if message.serving else ''} |"
        for message in MESSAGES
    ]
    return _HEAD + "\n".join(causes) + "\n" + _MESSAGES + "\n".join(messages) + "\n"


def _in_a_table(pattern: str) -> str:
    return pattern.replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(page())
