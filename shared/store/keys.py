"""Names of everything the store keeps in Redis; nothing else names a key.

The Lua scripts build the same names from the same prefix, so a change here is a change there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names behind one prefix."""

    prefix: str = "fleet:"

    def instance(self, instance_id: str) -> str:
        """Hash: the record."""
        return f"{self.prefix}instance:{instance_id}"

    def events(self, instance_id: str) -> str:
        """Stream, capped: every change of the record's status or desire, in order."""
        return f"{self.prefix}events:{instance_id}"

    def log(self, instance_id: str, run: int) -> str:
        """Stream, capped: the log lines of one run of the engine, each with the bytes up to it."""
        return f"{self.prefix}log:{instance_id}:{run}"

    def once(self, digest: str) -> str:
        """Hash: the instance that was created for an idempotency key, by the digest of its name."""
        return f"{self.prefix}once:{digest}"

    def changed(self, kind: str) -> str:
        """Sorted set, capped: ids of what changed, `instances` or `nodes`, by a growing stamp."""
        return f"{self.prefix}changed:{kind}"

    def changed_from(self, kind: str) -> str:
        """Stamp: changes up to it are not in `changed` (any more)."""
        return f"{self.prefix}changed-from:{kind}"

    def lease(self, name: str) -> str:
        """Name of who has a lease; expires with it."""
        return f"{self.prefix}lease:{name}"

    @property
    def idle_held(self) -> str:
        """Hash: ids of idle instances that are held back, being too many at once; since when."""
        return f"{self.prefix}idle-held"

    @property
    def swept_at(self) -> str:
        """Time: when beat last had idle instances looked for."""
        return f"{self.prefix}swept-at"

    @property
    def instances(self) -> str:
        """Sorted set: ids of instances that are not ended, by creation time."""
        return f"{self.prefix}instances"

    @property
    def ended(self) -> str:
        """Sorted set: ids of instances that ended in the last day, by creation time."""
        return f"{self.prefix}ended"

    def of_node(self, listed: str, name: str) -> str:
        """Sorted set: those of `instances` or `ended` that are on a node."""
        return f"{listed}:node:{name}"

    def of_model(self, listed: str, name: str) -> str:
        """Sorted set: those of `instances` or `ended` of a model, by either of its names."""
        return f"{listed}:model:{name}"

    def of_status(self, listed: str, status: str) -> str:
        """Sorted set: those of `instances` or `ended` with a status, as callers see it."""
        return f"{listed}:status:{status}"

    @property
    def serving(self) -> str:
        """Sorted set: those of `instances` that take requests."""
        return f"{self.prefix}serving"

    @property
    def listed(self) -> str:
        """Hash: instance id → JSON list of the sorted sets it is in, without the prefix."""
        return f"{self.prefix}listed"

    @property
    def unlist(self) -> str:
        """Sorted set: ids of instances that are listed for a while only, by its end."""
        return f"{self.prefix}unlist"

    @property
    def expiry(self) -> str:
        """Sorted set: ids of serving instances, by when they expire if nobody uses them."""
        return f"{self.prefix}expiry"

    @property
    def line(self) -> str:
        """Sorted set: ids of instances that wait for a place, in line."""
        return f"{self.prefix}line"

    @property
    def line_joined(self) -> str:
        """Number: how many have ever joined the line."""
        return f"{self.prefix}line-joined"

    @property
    def nodes(self) -> str:
        """Set: names of all nodes that ever announced themselves."""
        return f"{self.prefix}nodes"

    def node(self, name: str) -> str:
        """Hash: a node as its worker announced and reported it, its epoch, its cordon."""
        return f"{self.prefix}node:{name}"

    @property
    def beats(self) -> str:
        """Sorted set: names of nodes by their last heartbeat; not those whose worker has left."""
        return f"{self.prefix}beats"

    @property
    def node_changes(self) -> str:
        """Channel: the name of each node of which something changed, its claims too."""
        return f"{self.prefix}node-changes"

    def claims(self, name: str) -> str:
        """Hash: instance id → JSON object of what it holds of GPUs there: UUID → thousandths."""
        return f"{self.prefix}claims:{name}"

    def placed(self, name: str) -> str:
        """Set: ids of the node's instances that its worker has to look after."""
        return f"{self.prefix}placed:{name}"

    def starts(self, kind: str) -> str:
        """List, capped: what earlier starts of a kind took, newest first."""
        return f"{self.prefix}starts:{kind}"

    @property
    def demand(self) -> str:
        """Sorted set: web processes with requests for models of the catalogue; until when."""
        return f"{self.prefix}demand"

    def demand_of(self, holder: str) -> str:
        """String: JSON of what a web process has, by model: requests running, waiting."""
        return f"{self.prefix}demand:{holder}"

    @property
    def api_keys(self) -> str:
        """Set: ids of all API keys that were ever made; nothing is ever taken out."""
        return f"{self.prefix}api-keys"

    def api_key(self, key_id: str) -> str:
        """Hash: what is kept of an API key; never the key itself."""
        return f"{self.prefix}api-key:{key_id}"

    @property
    def key_changes(self) -> str:
        """Channel: the id of each API key that was made or changed."""
        return f"{self.prefix}key-changes"

    @property
    def changes(self) -> str:
        """Channel: the id of each instance whose record changed."""
        return f"{self.prefix}changes"
