"""What the fleet can start by itself: the models that an operator has named, each with its spec.

Written in `configs/models.yaml`; see `catalogue_text` for how it is read. A change of it counts for
what is started from then on: what runs goes on as it was started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.domain.params import served_names

TARGET = 32
"""Requests at once for one replica: vLLM batches far more, yet each gets slower with the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model that the fleet can start."""

    name: str  # what callers say as `model`
    model: str  # what the engine is started with: model_name of its instances
    params: Mapping[str, object] = field(default_factory=dict)  # full names, checked
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: int | None = None  # idle seconds before a replica is stopped; None: the default
    min_replicas: int = 0  # so many always run, whether used or not
    max_replicas: int = 1
    target: int = TARGET  # requests at once that one replica is meant for
    aliases: tuple[str, ...] = ()  # other names of it
    pinned: bool = False  # once started it is not stopped as idle, nor evicted
    priority: int = 0  # of its starts, where several wait for room; higher first
    labels: Mapping[str, str] = field(default_factory=dict)  # that its nodes must have
    line: int = 0  # of the file, from 1

    @property
    def names(self) -> tuple[str, ...]:
        """What callers may call it: its name, its aliases, and the names its params give it."""
        given = served_names("", self.params)
        return tuple(dict.fromkeys(filter(None, (self.name, *self.aliases, *given))))

    @property
    def served(self) -> list[str]:
        """Names under which its engines serve it: an engine takes no other.

        That of the model itself is none of them: it could not be started by it.
        """
        return list(self.names)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All entries, by each of their names."""

    entries: Mapping[str, Entry] = field(default_factory=dict)  # by name, in the file's order
    by_any_name: Mapping[str, Entry] = field(default_factory=dict)  # by name or alias

    def find(self, name: str) -> Entry | None:
        """Return the entry of that name or alias; None if there is none."""
        return self.by_any_name.get(name)


def catalogue_of(entries: tuple[Entry, ...]) -> Catalogue:
    """Return the catalogue of entries whose names are all different."""
    return Catalogue(
        {entry.name: entry for entry in entries},
        {name: entry for entry in entries for name in entry.names},
    )
