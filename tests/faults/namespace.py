"""A network namespace as a node of its own: partitions are made with routes. Needs root.

The namespace has one address, the machine two: one for Redis, one for everything else, so that
either can be cut off without the other.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress


class Namespace:
    """One namespace, joined to this one by a pair of virtual cables."""

    def __init__(self) -> None:
        """Make it.

        Raises:
            subprocess.CalledProcessError: this user may not.
        """
        number = os.getpid() % 200
        self.name = f"faults{os.getpid()}"
        self._cable = f"vf{os.getpid()}"
        self.address = f"10.211.{number}.2"
        self.web_address = f"10.211.{number}.1"
        self.redis_address = f"10.211.{number}.3"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("addr", "add", f"{self.web_address}/24", "dev", self._cable)
        _ip("addr", "add", f"{self.redis_address}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        self._inside("addr", "add", f"{self.address}/24", "dev", "eth0")
        self._inside("link", "set", "eth0", "up")
        self._inside("link", "set", "lo", "up")

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command that is to run on the node."""
        return ("ip", "netns", "exec", self.name)

    def settings(self, redis_port: int) -> dict[str, str]:
        """Return what the node's worker has to know."""
        return {
            "REDIS_URL": f"redis://{self.redis_address}:{redis_port}/0",
            "NODE_ADDRESS": self.address,
        }

    def cut_redis(self) -> None:
        """Let nothing of the node reach Redis."""
        self._inside("route", "add", "blackhole", f"{self.redis_address}/32")

    def drop_answers_of_redis(self) -> None:
        """Let what the node says reach Redis, and no answer come back."""
        _ip("rule", "add", "from", self.redis_address, "to", self.address, "blackhole")

    def cut_everything(self) -> None:
        """Pull the cable."""
        self._inside("link", "set", "eth0", "down")

    def heal(self) -> None:
        """Be a good network again."""
        with suppress(subprocess.CalledProcessError):
            self._inside("route", "del", "blackhole", f"{self.redis_address}/32")
        with suppress(subprocess.CalledProcessError):
            _ip("rule", "del", "from", self.redis_address, "to", self.address, "blackhole")
        self._inside("link", "set", "eth0", "up")

    def close(self) -> None:
        """Remove it."""
        with suppress(subprocess.CalledProcessError):
            self.heal()
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.name)
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._cable)

    def _inside(self, *words: str) -> None:
        _ip("-n", self.name, *words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
