"""Which instance made which stored response: its id stands in the beginning of the answer.

vLLM keeps responses in the process that made them (0.32, VLLM_ENABLE_RESPONSES_API_STORE), so what
asks for one has to go there. What this process did not see is found by asking: looking one up
changes nothing.
"""

from __future__ import annotations

import re
import threading

from shared.domain.instance import Instance

RESPONSES = "/v1/responses"
"""The path whose answers have an id to remember."""

HEARD_BYTES = 4096
"""Of an answer's beginning, in which its id is looked for."""

_MOST = 100_000  # ids, newest kept; a few hundred bytes each
_ID = re.compile(rb'"id"[ \t]*:[ \t]*"(resp_[A-Za-z0-9_-]{1,128})"')
_PLAIN_ID = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_OF = re.compile(rf"{RESPONSES}/({_PLAIN_ID})(?:/cancel)?")


def response_in(path: str) -> str | None:
    """Return the id of the response that a path is about; None if it is about none."""
    found = _OF.fullmatch(path)
    return found[1] if found else None


def can_be_asked_for(response_id: str) -> bool:
    """Return whether an id, which callers may write as they like, can stand in a path as it is."""
    return re.fullmatch(_PLAIN_ID, response_id) is not None


def id_in(beginning: bytes) -> str | None:
    """Return the id of a response, which the beginning of an answer says."""
    found = _ID.search(beginning)
    return found[1].decode() if found else None


class Makers:
    """Ids of responses → who made them. Any thread may ask and tell."""

    def __init__(self) -> None:
        self._made: dict[str, str] = {}  # oldest first
        self._changing = threading.Lock()

    def heard(self, beginning: bytes, instance: Instance) -> bool:
        """Take the beginning of an instance's answer; return whether it said the response's id."""
        response_id = id_in(beginning)
        if response_id is None:
            return False
        self.learn(response_id, instance)
        return True

    def learn(self, response_id: str, instance: Instance) -> None:
        """Hear that the instance has the response."""
        with self._changing:
            self._made[response_id] = instance.instance_id
            if len(self._made) > _MOST:
                del self._made[next(iter(self._made))]

    def of(self, response_id: str) -> str | None:
        """Return the id of the instance that made the response; None if nobody said so here."""
        return self._made.get(response_id)
