"""A real cluster of processes for tests: started through the command, broken on purpose, gone at the end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cairnfs.local import mounts
from cairnfs.local.processes import Process, start
from tests.cluster.networks import Network

PATIENCE_S = 60.0
FAST = {  # seconds: quick enough for tests, slow enough for a busy machine
    "--heartbeat-s": "0.5",
    "--suspect-s": "3",
    "--dead-s": "6",
}


@dataclass(slots=True)
class Part:
    """One process of the cluster: what it was started with, and whether it runs."""

    name: str
    arguments: list[str]
    directory: Path
    address: str = ""
    process: Process | None = None
    child: "subprocess.Popen[bytes] | None" = None
    prefix: list[str] = field(default_factory=list[str])  # a command that runs it, in a network of its own

    @property
    def log(self) -> Path:
        """Everything that it wrote."""
        return self.directory / f"{self.name}.log"

    def start(self) -> None:
        """Start it with its address of before, and wait until it is ready."""
        starting = start(self.command(), self.directory / f"{self.name}.pid", self.log)
        self.process, self.child = starting.process, starting.child
        self.address = starting.wait(PATIENCE_S) or self.address

    def command(self) -> list[str]:
        """What runs it."""
        return [*self.prefix, sys.executable, "-m", "cairnfs.cli", *self.arguments]

    def signal(self, number: int) -> None:
        """Send a signal to a running part."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill -9, as a crash; it may be started again."""
        self._reap(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; killed when it does not end within PATIENCE_S."""
        self._reap(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: it answers nobody until `resume`."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def _reap(self, number: int) -> None:
        if self.child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(number)
            self.child.send_signal(signal.SIGCONT)
        try:
            self.child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child = self.process = None


@dataclass(slots=True)
class Mount(Part):
    """One mounted directory and the process behind it."""

    path: Path = Path()

    def unmount(self) -> None:
        """Unmount and wait for the end of its process."""
        subprocess.run(["umount", str(self.path)], check=True, timeout=PATIENCE_S)
        if self.child is not None:
            self.child.wait(PATIENCE_S)
            self.child = self.process = None

    def discard(self) -> None:
        """Whatever state it is in: no process and no mount afterwards."""
        if mounts.is_mounted(self.path):
            subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)
        self.kill()


@dataclass(slots=True)
class Cluster:
    """One coordinator, datanodes and mounts below one directory; `stop` leaves nothing running."""

    directory: Path
    replicas: int = 2
    network: Network | None = None  # with a host of the name of each part; otherwise all listen on loopback
    coordinator: Part = field(init=False)
    datanodes: list[Part] = field(default_factory=list[Part])
    mounts: list[Mount] = field(default_factory=list[Mount])

    def start(self, datanodes: int = 3, **settings: str) -> None:
        """Start the servers; `settings` are further flags of the coordinator (`lease_s="3"`)."""
        self.directory.mkdir(parents=True, exist_ok=True)
        flags = {**FAST, **{f"--{name.replace('_', '-')}": value for name, value in settings.items()}}
        self.coordinator = self._part(
            "coordinator", ["coordinator", "--replicas", str(self.replicas), *_words(flags)]
        )
        self._start_server(self.coordinator)
        for _ in range(datanodes):
            self.add_datanode()
        self.wait_for(lambda: self._healthy() >= datanodes, f"{datanodes} healthy datanodes")

    def add_datanode(self, **settings: str) -> Part:
        """Start one more datanode; `settings` are further flags (`rack="b"`)."""
        flags = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
        part = self._part(
            f"datanode-{len(self.datanodes) + 1}",
            ["datanode", "--coordinators", self.coordinator.address, *_words(flags)],
        )
        self._start_server(part)
        self.datanodes.append(part)
        return part

    def mount(self, options: str = "", subdir: str = "/") -> Mount:
        """Mount at a directory of its own and wait until it answers."""
        name = f"mount-{len(self.mounts) + 1}"
        path = self.directory / name
        path.mkdir()
        source = f"{self.coordinator.address}:{subdir}"
        words = ["-o", options] if options else []
        mount = Mount(name, ["mount", source, str(path), "--foreground", *words], self.directory, path=path)
        self._place(mount)
        self.mounts.append(mount)
        mount.start()
        assert mounts.answers(path)
        return mount

    def _part(self, name: str, arguments: list[str]) -> Part:
        data = str(self.directory / f"{name}.data")
        part = Part(name, [*arguments, "--data", data], self.directory)
        self._place(part)
        return part

    def _place(self, part: Part) -> None:
        if self.network is not None:
            part.prefix = self.network.prefix(part.name)

    def _start_server(self, part: Part) -> None:
        """Start on a free port, which is then kept over restarts."""
        host = "127.0.0.1"
        if self.network is not None:
            host = self.network.address(part.name)
            part.arguments.append("--insecure")
        chosen = list(part.arguments)
        part.arguments += ["--listen", f"{host}:0"]
        part.start()
        part.arguments = [*chosen, "--listen", part.address]

    # ------------------------------------------------------------------ asking

    def command(self, *words: str) -> Any:
        """The JSON that `cairnfs WORDS --json` prints for this cluster, whatever its status."""
        command = [*self.coordinator.prefix, sys.executable, "-m", "cairnfs.cli", *words, "--json"]
        result = subprocess.run(
            [*command, "--coordinators", self.coordinator.address],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
        assert result.stdout, result.stderr
        return json.loads(result.stdout)

    def _healthy(self) -> int:
        return sum(node["state"] == "healthy" for node in self.command("nodes")["nodes"])

    def wait_for(self, condition: Any, what: str, patience_s: float = PATIENCE_S) -> None:
        """Ask again and again until `condition()` holds; fails naming `what` after `patience_s`."""
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {patience_s:.0f} s in vain for {what}"
            time.sleep(0.1)

    def wait_until_replicated(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until every chunk has all its replicas again."""
        self.wait_for(lambda: self.command("status")["under_replicated"] == 0, "all replicas", patience_s)

    def assert_clean(self) -> None:
        """`cairnfs fsck --verify-data` finds no fault."""
        report = self.command("fsck", "--verify-data")
        assert report["clean"], report

    # ------------------------------------------------------------------ ending

    def stop(self) -> None:
        """Unmount and stop everything, in whatever state it is."""
        for mount in self.mounts:
            mount.discard()
        for part in [*self.datanodes, *([self.coordinator] if hasattr(self, "coordinator") else [])]:
            part.kill() if part.process is None else part.stop()


def _words(flags: dict[str, str]) -> list[str]:
    return [word for flag in flags.items() for word in flag]
