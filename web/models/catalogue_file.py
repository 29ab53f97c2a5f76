"""The catalogue of models as its file has it: read again, in a thread of its own, when it changes.

A file that cannot be used leaves the catalogue before it in force; the log and /readyz say why.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from shared.domain.catalogue import Catalogue, Entry
from shared.domain.catalogue_text import parse
from shared.domain.policy import Policy
from shared.errors import CatalogueFault

_LOOK_S = 1.0  # a look is one stat(2)
_MAX_BYTES = 2**20  # some thousands of models, read in three seconds; more is another file

log = logging.getLogger(__name__)


class CatalogueFile:
    """Follows the file. Reading `current` is one attribute's read, from any thread.

    Args:
        path: of the file.
        policy: what engines may be started with; entries are held to it as requests are.
    """

    def __init__(self, path: Path, policy: Policy) -> None:
        self._path = path
        self._policy = policy
        self._seen: object = None  # which state of the file was read last
        self._changed: list[Callable[[], None]] = []
        self._closed = threading.Event()
        self.current = Catalogue()
        self.fault = ""
        """What is wrong with the file as it is; "" if nothing is."""

    def start(self) -> None:
        """Read the file, then follow it in a thread of its own."""
        self.refresh()
        threading.Thread(target=self._run, name="catalogue", daemon=True).start()

    def close(self) -> None:
        """Stop following."""
        self._closed.set()

    def when_changed(self, told: Callable[[], None]) -> None:
        """Have `told` called after each change of `current`, in the following thread."""
        self._changed.append(told)

    def refresh(self) -> None:
        """Read the file if it is not as it was when it was read last."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev)
            if seen == self._seen:
                return
            text = self._text(stat.st_size)
        except (OSError, CatalogueFault) as error:
            why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            self._refuse(f"cannot be read: {why}", seen=str(error))
            return
        self._seen = seen
        try:
            self.current = parse(text, self._check)
        except CatalogueFault as fault:
            self._refuse(str(fault), seen=seen)
            return
        self.fault = ""
        log.info("%s: %d models", self._path, len(self.current.entries))
        for told in self._changed:
            told()

    def _text(self, size: int) -> str:
        if size > _MAX_BYTES:
            raise CatalogueFault([f"{size} bytes, more than {_MAX_BYTES}"])
        try:
            return self._path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise CatalogueFault([f"not UTF-8 at byte {error.start}"]) from error

    def _check(self, entry: Entry) -> None:
        self._policy.check(entry.model, entry.params, entry.env)

    def _refuse(self, why: str, *, seen: object) -> None:
        fault = f"{self._path}: {why}; the catalogue before it stays in force"
        if fault != self.fault or seen != self._seen:
            log.error("%s", fault)
        self.fault = fault
        self._seen = seen

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_S):
            try:
                self.refresh()
            except Exception:  # a fault of ours must not end the following
                log.exception("%s not read; trying again", self._path)
