"""The log of a process of ours: one shape of line, on standard error."""

from __future__ import annotations

import logging
from collections.abc import Iterable

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(request)s"


def log_to_stderr(*, debug: bool, filters: Iterable[logging.Filter] = ()) -> None:
    """Send what this process logs to standard error; harmless to repeat.

    Args:
        debug: from DEBUG upwards; else from INFO upwards.
        filters: of every line; one may set `request`, which then ends the line.
    """
    out = logging.StreamHandler()
    out.setFormatter(logging.Formatter(_FORMAT, defaults={"request": ""}))
    for each in filters:
        out.addFilter(each)
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[out])
