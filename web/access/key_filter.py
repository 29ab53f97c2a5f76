"""No API key in a log: a head that a caller has got wrong is logged with what was wrong in it."""

from __future__ import annotations

import logging

from shared.domain.key import without_secrets


class KeyFilter(logging.Filter):
    """Leaves no more of API keys in a log line than their ids."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite `record` if its message holds a key; let every line pass."""
        said = record.getMessage()
        discreet = without_secrets(said)
        if discreet != said:
            record.msg, record.args = discreet, ()
        return True
