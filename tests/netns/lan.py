"""A switch and the hosts on it. What is cut loses packets without a word, as real networks do."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field

from tests.ports import own_number

NETWORK = "10.212.0.0/16"
"""Where all of these addresses are; one /24 for each process that tests."""

_NOBODY = "02:00:00:00:00:01"  # a hardware address that no host has
_SWITCH = "02:00:00:00:00:02"


def why_not() -> str:
    """Return why this user cannot make network namespaces here; "" if they can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    tried = f"lan{own_number()}-try"
    bridge = f"lan{own_number()}t"
    try:
        _ip("netns", "add", tried)
        _ip("netns", "del", tried)
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "del", bridge)
    except subprocess.CalledProcessError as error:
        return f"`ip` says: {error.stderr.strip()}"
    return ""


@dataclass(frozen=True, slots=True)
class Host:
    """A place where processes run: a namespace, or this machine's own one."""

    name: str
    address: str
    device: str  # its end of the cable
    namespace: str = ""  # "": this machine's own

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command that is to run there."""
        return ("ip", "netns", "exec", self.namespace) if self.namespace else ()

    def ip(self, *words: str) -> None:
        """Run `ip` there."""
        _ip(*(("-n", self.namespace) if self.namespace else ()), *words)


@dataclass(slots=True)
class Lan:
    """One switch; `middle` is on it from the start, and is this machine's own namespace."""

    middle: Host = field(init=False)
    _bridge: str = field(init=False)
    _hosts: list[Host] = field(default_factory=list)

    def __post_init__(self) -> None:
        number = own_number()
        self._bridge = f"lan{number}"
        self.middle = Host("middle", f"10.212.{number}.1", self._bridge)
        self._remove()  # of a run that was killed
        # An address of its own: else it has that of one of its cables, another when that is pulled,
        # and nobody hears of it.
        _ip("link", "add", self._bridge, "address", _SWITCH, "type", "bridge")
        _ip("addr", "add", f"{self.middle.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def host(self, name: str) -> Host:
        """Add a host."""
        number = len(self._hosts) + 10
        namespace = f"{self._bridge}-{number}"
        host = Host(name, f"{self.middle.address.rpartition('.')[0]}.{number}", "eth0", namespace)
        _ip("netns", "add", namespace)
        self._hosts.append(host)
        cable = self._cable(host)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", cable, "master", self._bridge, "up")
        host.ip("addr", "add", f"{host.address}/24", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        host.ip("link", "set", "lo", "up")
        return host

    def unplug(self, host: Host) -> None:
        """Pull a host's cable out of the switch; it does not see that."""
        _ip("link", "set", self._cable(host), "nomaster")

    def plug_in(self, host: Host) -> None:
        """Put it back."""
        _ip("link", "set", self._cable(host), "master", self._bridge)

    def part(self, one: Host, other: Host) -> None:
        """Let nothing pass between two hosts, either way; others still reach both."""
        for here, there in ((one, other), (other, one)):
            here.ip(
                "neigh", "replace", there.address, "lladdr", _NOBODY, "nud", "permanent",
                "dev", here.device,
            )  # fmt: skip

    def join(self, one: Host, other: Host) -> None:
        """Take that back."""
        for here, there in ((one, other), (other, one)):
            with suppress(subprocess.CalledProcessError):  # they were not parted
                here.ip("neigh", "del", there.address, "dev", here.device)

    def heal(self) -> None:
        """Be a good network again."""
        for host in self._hosts:
            self.plug_in(host)
            for other in (self.middle, *self._hosts):
                if other != host:
                    self.join(host, other)

    def close(self) -> None:
        """Remove it."""
        self._remove()

    def _cable(self, host: Host) -> str:
        return f"{self._bridge}v{host.address.rpartition('.')[2]}"

    def _remove(self) -> None:
        # Cables first: a namespace lives on, without a name, as long as a connection of it does.
        for line in _ip("-o", "link", "show").splitlines():
            name = line.split(":")[1].strip().partition("@")[0]
            if name.startswith(f"{self._bridge}v"):
                _ip("link", "del", name)
        for line in _ip("netns", "list").splitlines():
            name = line.split()[0]
            if name.startswith(f"{self._bridge}-"):
                _ip("netns", "del", name)
        with suppress(subprocess.CalledProcessError):  # there is none
            _ip("link", "del", self._bridge)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
