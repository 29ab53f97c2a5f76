"""Server-sent events, as a client reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import requests


@dataclass(frozen=True, slots=True)
class Message:
    """One message."""

    data: str
    event_id: str
    kind: str  # '' for the ordinary one

    @property
    def content(self) -> Any:
        """Return the data, read as JSON."""
        return json.loads(self.data)


def messages(answer: requests.Response) -> Iterator[Message]:
    """Yield each message as it comes, up to the end of the answer; comments are left out."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Message(fields["data"], fields.get("id", ""), fields.get("event", ""))
            fields = {}
