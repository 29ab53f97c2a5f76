"""Logs of every run that is kept, from whichever node; a flood of them hinders nobody."""

from __future__ import annotations

import requests

from tests.integration.harness import LocalFleet
from tests.integration.sse import messages


def log_of(fleet: LocalFleet, instance_id: str, **args: object) -> requests.Response:
    """Return the answer to a question for a log."""
    return requests.get(
        f"{fleet.base}/instances/{instance_id}/logs",
        params={name: str(value) for name, value in args.items()},
        stream=bool(args.get("follow")),
        timeout=60,
    )


def test_who_follows_a_log_is_shown_what_was_and_what_comes(fleet: LocalFleet) -> None:
    name = fleet.create()["instance_id"]
    with log_of(fleet, name, follow=1, tail=1) as answer:
        lines = answer.iter_lines(chunk_size=1, decode_unicode=True)
        first = next(lines)
        fleet.delete(name)
        rest = list(lines)
    whole = log_of(fleet, name, tail=5000).text.splitlines()
    assert first in whole
    assert [first, *rest] == whole[whole.index(first) :]
    assert any("shutdown triggered" in line for line in rest)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_as_events_a_log_can_be_gone_on_with(fleet: LocalFleet) -> None:
    name = fleet.create()["instance_id"]
    fleet.delete(name)
    whole = log_of(fleet, name, tail=5000).text.splitlines()
    url = f"{fleet.base}/instances/{name}/logs?follow=1&tail=5000"
    events = {"Accept": "text/event-stream"}
    with requests.get(url, headers=events, stream=True, timeout=60) as answer:
        seen = list(messages(answer))
    assert [message.data for message in seen[:-1]] == whole
    assert seen[-1].kind == "end"
    again = {**events, "Last-Event-ID": seen[3].event_id}
    with requests.get(url, headers=again, stream=True, timeout=60) as answer:
        assert [message.data for message in messages(answer)][:-1] == whole[4:]
