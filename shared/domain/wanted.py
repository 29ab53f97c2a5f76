"""What a new instance asks of its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WHOLE = 1000
"""A whole GPU, in the unit of claims: thousandths of its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The place that an instance needs, as its spec and its creator say."""

    gpus: int = 1  # how many; a node without GPUs takes the instance too, unless `on_gpus`
    on_gpus: bool | None = None  # True: nodes with GPUs only; False: without; None: either
    uuids: tuple[str, ...] = ()  # these GPUs and no others
    share: float = 1.0  # of the memory of each GPU: vLLM's gpu_memory_utilization
    node: str = ""  # this node and no other
    labels: Mapping[str, str] = field(default_factory=dict)  # that its node must have
    queue: bool = False  # waits in line where there is no room
    evict: bool = False  # has idle instances stopped where there is no room
    priority: int = 0  # in the line, higher first

    @property
    def place(self) -> tuple[object, ...]:
        """What it takes of a node to fit: two with the same fit in the same places."""
        labels = tuple(sorted(self.labels.items()))
        return (self.gpus, self.on_gpus, self.uuids, self.share, self.node, labels)

    @property
    def thousandths(self) -> int:
        """The share as claims count it; rounded to the nearest: three thirds are a whole."""
        return max(1, round(self.share * WHOLE))
