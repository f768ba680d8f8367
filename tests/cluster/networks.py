"""A network of namespaces, one host per part of a cluster, in which any two can be cut off from each other.

All hosts hang on a bridge in a namespace of its own, so nothing of the machine's network is touched.
"""

import os
import subprocess
from collections.abc import Sequence
from itertools import count

_PREFIX_BITS = 24
_networks = count(1)


class NetworkRefused(Exception):
    """The kernel has no such networks, or gives them to others only."""


class Network:
    """Hosts by name. Needs root; raises NetworkRefused, with what ip(8) says."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._name = f"cairnfs-{os.getpid()}-{next(_networks)}"
        self._addresses = {host: f"10.77.0.{number}" for number, host in enumerate(hosts, 1)}
        self._cuts: set[frozenset[str]] = set()
        self._made: list[str] = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        switch = self._add("switch")
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, (host, address) in enumerate(self._addresses.items(), 1):
            name, port = self._add(host), f"port{number}"
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "address", "add", f"{address}/{_PREFIX_BITS}", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            # A rule only counts before the one that finds what is addressed to this host.
            _ip("-n", name, "rule", "add", "lookup", "local", "priority", "10")
            _ip("-n", name, "rule", "delete", "priority", "0")

    def _add(self, host: str) -> str:
        name = f"{self._name}-{host}"
        _ip("netns", "add", name)
        self._made.append(name)
        return name

    def address(self, host: str) -> str:
        """Its IP address."""
        return self._addresses[host]

    def prefix(self, host: str) -> list[str]:
        """The words before a command that run it there; everything else is shared with the machine."""
        return ["nsenter", f"--net=/run/netns/{self._name}-{host}"]

    def cut(self, one: str, other: str) -> None:
        """From now on nothing that one sends reaches the other; neither is told."""
        self._cuts.add(frozenset((one, other)))
        self._rule("add", one, other)
        self._rule("add", other, one)

    def mend(self) -> None:
        """All reach each other again."""
        for one, other in self._cuts:
            self._rule("delete", one, other)
            self._rule("delete", other, one)
        self._cuts.clear()

    def _rule(self, verb: str, receiver: str, sender: str) -> None:
        """Packets of the sender are dropped as they arrive."""
        name = f"{self._name}-{receiver}"
        _ip("-n", name, "rule", verb, "from", self._addresses[sender], "type", "blackhole", "priority", "1")

    def close(self) -> None:
        """Nothing of it is left."""
        for name in self._made:
            _ip("netns", "delete", name)
        self._made.clear()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise NetworkRefused(f"ip {' '.join(words)}: {done.stderr.strip()}")
