"""A worker's look at its records, without what it costs the worker: all nodes share two cores here.

The same commands as `Store.placed_since`, so for Redis there is no difference.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic
from typing import Any

import hiredis

from shared.store.keys import Keys
from workers.supervisor import WHOLE_S

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class _Seen:
    """A record as it was read last."""

    stamp: bytes | None
    runs: bool


@dataclass(frozen=True, slots=True)
class _Node:
    """What is known of a node's records."""

    seen: dict[str, _Seen]
    ask: bytes  # what is sent to look at them again
    read_at: float  # whole


class RawLook:
    """Reads the records of nodes over a connection of its own."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = hiredis.Reader()
        self._keys = Keys()
        self._changed = self._keys.changed("instances")
        self._last: dict[str, _Node] = {}

    def has_work(self, node: str) -> bool:
        """Return whether the node has an instance that does not simply run."""
        last = self._last.get(node)
        if last is None or monotonic() - last.read_at >= WHOLE_S:
            last = _Node({}, b"", monotonic())
        if not last.seen:
            [members] = self._ask([("SMEMBERS", self._keys.placed(node))])
            told: list[bytes | None] = []
        else:
            answers = self._answers(last.ask, 2 + len(last.seen))
            members, told = answers[:2]
        ids = {name.decode() for name in members}
        same = {
            name: seen
            for (name, seen), stamp in zip(last.seen.items(), told, strict=True)
            if name in ids and stamp == seen.stamp
        }
        others = [*(ids - same.keys())]
        if others:
            [stamps] = self._ask([("ZMSCORE", self._changed, *others)])
            records = self._ask([("HGETALL", self._keys.instance(name)) for name in others])
            for name, stamp, record in zip(others, stamps, records, strict=True):
                same[name] = _Seen(stamp, _runs(record))
        if same.keys() != last.seen.keys():
            last = _Node(same, self._looks(node, same), last.read_at)
        else:
            last = _Node(same, last.ask, last.read_at)
        self._last[node] = last
        return not all(seen.runs for seen in same.values())

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _looks(self, node: str, names: Collection[str]) -> bytes:
        commands: list[tuple[str, ...]] = [("SMEMBERS", self._keys.placed(node))]
        commands.append(("ZMSCORE", self._changed, *names))
        commands += [("HGET", self._keys.instance(name), "last_active") for name in names]
        return b"".join(map(_packed, commands))

    def _ask(self, commands: list[tuple[str, ...]]) -> list[Any]:
        return self._answers(b"".join(map(_packed, commands)), len(commands))

    def _answers(self, commands: bytes, number: int) -> list[Any]:
        self._socket.sendall(commands)
        answers: list[Any] = []
        while len(answers) < number:
            answer = self._reader.gets()
            if answer is False:
                self._reader.feed(self._socket.recv(_CHUNK))
            else:
                answers.append(answer)
        return answers


def _packed(words: tuple[str, ...]) -> bytes:
    parts = [word.encode() for word in words]
    return b"".join(
        [b"*%d\r\n" % len(parts), *(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)]
    )


def _runs(record: list[bytes]) -> bool:
    fields = dict(zip(record[::2], record[1::2], strict=True))
    return fields.get(b"status") == fields.get(b"desired") == b"running"
