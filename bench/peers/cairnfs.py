"""CairnFS with the defaults of `cairnfs up`: one coordinator, three datanodes, two copies."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.peers.system import START_S, StartError, System

_PORT = 9440  # the sandbox has a network of its own
_COORDINATOR = f"127.0.0.1:{_PORT}"


class CairnFS(System):
    """What this checkout holds."""

    name: ClassVar[str] = "cairnfs"
    title: ClassVar[str] = "CairnFS"
    copies: ClassVar[int] = 2
    late_s: ClassVar[float] = 1.2  # what is in its journal goes out after a second
    datanodes: int = 3

    def start_servers(self) -> None:
        """Start the coordinator and the datanodes, and wait until all of them serve."""
        server = self._command("coordinator", "--listen", _COORDINATOR, "--replicas", str(self.copies))
        self.spawn("server", [*server, "--data", self.directory / "coordinator"])
        self.await_port(_PORT, "127.0.0.1")
        for number in range(1, self.datanodes + 1):
            server = self._command("datanode", "--listen", "127.0.0.1:0", "--coordinators", _COORDINATOR)
            self.spawn("server", [*server, "--data", self.directory / f"datanode-{number}"])
        deadline = time.monotonic() + START_S
        while self._healthy() < self.datanodes:
            if time.monotonic() > deadline:
                raise StartError("not every datanode of cairnfs serves")
            time.sleep(0.2)

    def _healthy(self) -> int:
        told = self.run(*self._command("nodes", "--coordinators", _COORDINATOR, "--json"), role="other")
        return sum(node["state"] == "healthy" for node in json.loads(told)["nodes"])

    def mount_command(self) -> Sequence[str | Path]:
        """A supervised mount, as people have it."""
        return [*self._command("mount", f"{_COORDINATOR}:/"), self.place, "--foreground", "--supervise"]

    def _command(self, *arguments: str | Path) -> list[str | Path]:
        return [sys.executable, "-P", "-m", "cairnfs.cli", *arguments]
