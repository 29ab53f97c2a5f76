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
        """Sorted set: ids of instances that ended in the last day, by the time they ended."""
        return f"{self.prefix}ended"

    @property
    def expiry(self) -> str:
        """Sorted set: ids of serving instances, by when they expire if nobody uses them."""
        return f"{self.prefix}expiry"

    @property
    def nodes(self) -> str:
        """Set: names of all nodes that ever announced themselves."""
        return f"{self.prefix}nodes"

    def node(self, name: str) -> str:
        """Hash: a node as its worker announced it, its epoch and its last heartbeat."""
        return f"{self.prefix}node:{name}"

    def claims(self, name: str) -> str:
        """Hash: instance id → JSON list of GPU UUIDs that it holds on the node."""
        return f"{self.prefix}claims:{name}"

    def placed(self, name: str) -> str:
        """Set: ids of the node's instances that its worker has to look after."""
        return f"{self.prefix}placed:{name}"

    def starts(self, kind: str) -> str:
        """List, capped: what earlier starts of a kind took, newest first."""
        return f"{self.prefix}starts:{kind}"

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
