"""MooseFS 3: one master, three chunkservers, goal 2."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.peers.system import ADDRESS, START_S, StartError, System

_METADATA = Path("/var/lib/mfs/metadata.mfs.empty")
_TO_CHUNKSERVERS, _TO_CLIENTS, _FIRST_CHUNKSERVER = 9420, 9421, 9431
_CHUNKSERVERS = 3


class MooseFS(System):
    """Its chunkservers refuse a master at 127.0.0.1."""

    name: ClassVar[str] = "moosefs"
    title: ClassVar[str] = "MooseFS"
    copies: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = (
        "moosefs-master",
        "moosefs-chunkserver",
        "moosefs-client",
        "moosefs-cli",
    )

    def start_servers(self) -> None:
        """Start all, and wait until the master knows every chunkserver."""
        self._start_master()
        for number in range(_CHUNKSERVERS):
            self._start_chunkserver(number, _FIRST_CHUNKSERVER + number)
        deadline = time.monotonic() + START_S
        while (
            self.run("mfscli", "-H", ADDRESS, "-ns", "|", "-SCS", role="other").count(ADDRESS) < _CHUNKSERVERS
        ):
            if time.monotonic() > deadline:
                raise StartError("not every chunkserver of moosefs serves")
            time.sleep(0.5)

    def _start_master(self) -> None:
        data = self.directory / "master"
        data.mkdir()
        shutil.copy(_METADATA, data / "metadata.mfs")
        exports = self._write("exports", f"{ADDRESS} / rw,alldirs,admin,maproot=0:0\n{ADDRESS} . rw\n")
        lines = [
            f"EXPORTS_FILENAME = {exports}",
            f"TOPOLOGY_FILENAME = {self._write('topology', '')}",
            *(f"{port}_LISTEN_HOST = {ADDRESS}" for port in ("MATOML", "MATOCS", "MATOCL")),
        ]
        self.spawn("server", ["mfsmaster", "-c", self._settings("master", data, lines), "-f", "start"])
        self.await_port(_TO_CLIENTS)

    def _start_chunkserver(self, number: int, port: int) -> None:
        data, disk = self.directory / f"chunkserver-{number}", self.directory / f"disk-{number}"
        data.mkdir()
        disk.mkdir()
        lines = [
            f"HDD_CONF_FILENAME = {self._write(f'disks-{number}', f'{disk}{chr(10)}')}",
            f"MASTER_HOST = {ADDRESS}",
            f"MASTER_PORT = {_TO_CHUNKSERVERS}",
            f"CSSERV_LISTEN_HOST = {ADDRESS}",
            f"CSSERV_LISTEN_PORT = {port}",
        ]
        settings = self._settings(f"chunkserver-{number}", data, lines)
        self.spawn("server", ["mfschunkserver", "-c", settings, "-f", "start"])
        self.await_port(port)

    def _settings(self, name: str, data: Path, lines: Sequence[str]) -> Path:
        common = ["WORKING_USER = root", "WORKING_GROUP = root", f"DATA_PATH = {data}"]
        return self._write(f"{name}.cfg", "".join(f"{line}\n" for line in [*common, *lines]))

    def _write(self, name: str, content: str) -> Path:
        path = self.directory / name
        path.write_text(content)
        return path

    def start(self) -> None:
        """Start, mount, and ask for two copies of everything."""
        super().start()
        self.run("mfssetgoal", "-r", str(self.copies), self.place, role="other")

    def mount_command(self) -> Sequence[str | Path]:
        """Its client."""
        return ["mfsmount", "-f", self.place, "-H", ADDRESS, "-P", str(_TO_CLIENTS)]
