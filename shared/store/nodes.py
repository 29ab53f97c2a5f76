"""Nodes: the part of the `Store` promise that is about machines."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shared.domain.node import Node, NodeReport, Orphan


class Beat(StrEnum):
    """What a store makes of a heartbeat."""

    OK = "ok"
    CORDONED = "cordoned"  # it lives; an operator has nothing new placed on it
    DRAINING = "draining"  # so, and its instances are to leave it
    UNKNOWN = "unknown"  # it has lost the node: announce it again
    BEHIND = "behind"  # it has gone back to an older state of itself: announce it again
    SUPERSEDED = "superseded"  # a newer worker has announced the node since


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSince:
    """What changed since a cursor, and who is silent."""

    cursor: str  # where the next question goes on
    whole: bool  # the old cursor said nothing (any more): `found` is all there are
    # As they are now. None: there is no such node any more, or it cannot be read.
    found: Mapping[str, Node | None]
    lost: Mapping[str, float]  # name → seconds of silence, of all who are too long; not the retired


class Nodes(Protocol):
    """Keeps nodes and what is claimed of them."""

    def announce(
        self, node: Node, holder: str, *, last_epoch: int = 0, beating: bool = True
    ) -> int:
        """Record `node` as its worker starts; return its new epoch.

        What an operator has asked of it stays, where the store knows the node; where it does not,
        it is cordoned and draining as `node` says.

        Args:
            node: as it is now.
            holder: which worker this is; the same after a restart, another on another machine.
            last_epoch: the highest one that the node knows of; the new one is higher, also where
                the store has forgotten it.
            beating: False leaves the heartbeat as it is, so that nothing is placed on a node that
                the store had lost before its records are back.

        Raises:
            Conflict: a living worker of another holder has this name.
        """

    def heartbeat(self, name: str, epoch: int, report: NodeReport | None = None) -> Beat:
        """Say that the node lives; return what the store makes of it.

        Args:
            name: of the node.
            epoch: as `announce` returned it.
            report: what has changed of the node; None: nothing since the last report. After
                an `announce` there is none.
        """

    def report_orphans(self, name: str, epoch: int, orphans: Collection[Orphan]) -> None:
        """Say which engines run on the node that neither it nor the store knows; [] for none."""

    def retire(self, name: str, epoch: int) -> None:
        """Take the node out of placement at once, as its worker stops."""

    def cordon(self, name: str, *, drain: bool = False) -> Node | None:
        """Have nothing new placed on the node; return it, or None if there is none.

        Args:
            name: of the node, lost or not.
            drain: have its instances leave it, too. Without it, a drain goes on if there is one.
        """

    def uncordon(self, name: str) -> Node | None:
        """Take back cordon and drain; return the node, or None if there is none.

        Instances that were asked to leave it do.
        """

    def forget_node(self, name: str) -> bool:
        """Remove a node that is lost and holds no claim; return False if that is not so.

        Its worker announces it again, should it live after all.
        """

    def nodes(self, names: Collection[str] | None = None) -> list[Node]:
        """Return nodes with their claims, lost ones too, by name: all, or those of these names.

        Those whose records cannot be read are left out, and logged once.
        """

    def node(self, name: str) -> Node | None:
        """Return one node with its claims, lost or not.

        None if there is none, or it cannot be read.
        """

    def nodes_since(self, cursor: str) -> NodesSince:
        """Return the nodes that changed since `cursor` was given out; '' for all.

        Costs what has changed, else as `Listing.instances_since`.
        """

    def node_changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield the names of nodes of which something changes, from now on; else as `changes`.

        Its claims too; not what a heartbeat reports, which `nodes_since` tells.
        """
