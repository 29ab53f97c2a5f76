"""Streams whose tokens need no look of ours: passed on by compiled code, see pump.c.

A token through Python is a dozen objects, most of them out of the processor's caches by then; with
hundreds of streams that is a third of all the time. The compiled code judges nothing: what is not
one or more whole chunks comes back to `EngineConnection.data_received`, and so does the stream.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from typing import Protocol

from web.relay.compiled import library

_PIECE = 65536  # as in pump.c

log = logging.getLogger(__name__)


class Stream(Protocol):
    """What a pump needs of an engine's connection."""

    def has_moved(self) -> None:
        """Hear that something was passed on since the last tick."""

    def back_from_pump(self, piece: bytes, sent: int) -> None:
        """Go on with the stream, of which `piece` was read and `sent` bytes of it sent."""


class _HandedBack(ctypes.Structure):
    _fields_ = (
        ("received", ctypes.c_int),
        ("sent", ctypes.c_int),
        ("piece", ctypes.c_ubyte * _PIECE),
    )


class Pump:
    """Passes streams on, on one event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, compiled: ctypes.PyDLL, most_streams: int
    ) -> None:
        """Begin with no stream.

        Raises:
            OSError: no descriptor or no memory is left.
        """
        self._compiled = compiled
        self._streams: dict[int, Stream] = {}
        self._free = list(range(most_streams))
        self._moved = (ctypes.c_ubyte * most_streams)()
        self._back = _HandedBack()
        self._back_at = ctypes.addressof(self._back)
        self._pump = compiled.pump_new(most_streams, ctypes.addressof(self._moved))
        if not self._pump:
            raise OSError("pump: no descriptor or no memory")
        loop.add_reader(compiled.pump_descriptor(self._pump), self._go_on)

    def take(self, engine: Stream, source: int, sink: int) -> int | None:
        """Pass a stream on from now on; return its slot, or None if it cannot be taken.

        Descriptors are given to others once they are closed, so the stream has to leave before.
        uvloop closes one only after its protocol has heard `connection_lost`.

        Args:
            engine: told when its stream comes back, by `back_from_pump`.
            source: descriptor of the engine's connection; nothing else may read it.
            sink: descriptor of the caller's, to which nothing is unsent.
        """
        if not self._free:
            return None
        slot = self._free.pop()
        if self._compiled.pump_take(self._pump, slot, source, sink) != 0:
            self._free.append(slot)
            return None
        self._streams[slot] = engine
        return slot

    def leave(self, slot: int) -> None:
        """Have nothing more to do with a stream; both of its descriptors are still open."""
        self._compiled.pump_leave(self._pump, slot)
        self._forget(slot)

    def tick(self) -> None:
        """Tell the streams that have moved since the last tick that they have."""
        moved = self._moved
        for slot, engine in self._streams.items():
            if moved[slot]:
                moved[slot] = 0
                engine.has_moved()

    def _go_on(self) -> None:
        while (slot := self._compiled.pump_go_on(self._pump, self._back_at)) >= 0:
            back = self._back
            piece = ctypes.string_at(self._back_at + _HandedBack.piece.offset, back.received)
            # Only now: where no memory is left for the piece, its engine has to find the slot its
            # own still, not another's, when it leaves.
            self._forget(slot).back_from_pump(piece, back.sent)

    def _forget(self, slot: int) -> Stream:
        self._free.append(slot)
        return self._streams.pop(slot)


def new_pump(loop: asyncio.AbstractEventLoop, most_streams: int) -> Pump | None:
    """Return a pump, or None where there can be none; the log says why."""
    compiled = library()
    if compiled is None:
        log.info("streams pass through Python: the relay was not compiled (make setup)")
        return None
    try:
        return Pump(loop, compiled, most_streams)
    except OSError as error:
        log.warning("streams pass through Python: %s", error)
        return None
