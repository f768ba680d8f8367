"""CephFS: one monitor, manager and metadata server, two OSDs (BlueStore in sparse files), two copies."""

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bench.peers.system import ADDRESS, START_S, StartError, System

_MONITOR_PORT = 3300
_OSD_BYTES = 16 << 30
_PLACEMENT_GROUPS = {"metadata": 16, "data": 32}


class CephFS(System):
    """Mounted by ceph-fuse: the kernel's client would not be a file system in user space like the others."""

    name: ClassVar[str] = "cephfs"
    title: ClassVar[str] = "CephFS"
    copies: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = (
        "ceph-fuse",
        "ceph-mon",
        "ceph-mgr",
        "ceph-osd",
        "ceph-mds",
        "ceph-common",
    )

    def start_servers(self) -> None:
        """Start the daemons, create the pools and the file system, and wait until it is active."""
        Path("/var/log/ceph").mkdir(parents=True)  # the sandbox's own
        identity = str(uuid.uuid4())
        self._write_settings(identity)
        self._start_monitor(identity)
        self.spawn("server", self._daemon("mgr", "a"))
        for number in range(self.copies):
            osd = str(uuid.uuid4())
            self._made(f"osd-{number}")
            self._ceph("osd", "new", osd)
            self.run(*self._tool("ceph-osd"), "-i", str(number), "--mkfs", "--osd-uuid", osd)
            self.spawn("server", self._daemon("osd", str(number)))
        for pool, groups in _PLACEMENT_GROUPS.items():
            self._ceph("osd", "pool", "create", pool, str(groups))
        self._ceph("fs", "new", "bench", *_PLACEMENT_GROUPS)
        self._made("mds-a")
        self.spawn("server", self._daemon("mds", "a"))
        deadline = time.monotonic() + START_S
        while "up:active" not in self._ceph("mds", "stat"):
            if time.monotonic() > deadline:
                raise StartError("the metadata server of cephfs does not become active")
            time.sleep(1.0)

    def _start_monitor(self, identity: str) -> None:
        map_file = self.directory / "monmap"
        monitor = ["--addv", "a", f"[v2:{ADDRESS}:{_MONITOR_PORT},v1:{ADDRESS}:6789]"]
        self.run("monmaptool", "--create", "--fsid", identity, *monitor, map_file)
        self._made("mon-a")
        self._made("mgr-a")
        self.run(*self._tool("ceph-mon"), "--mkfs", "-i", "a", "--monmap", map_file)
        self.spawn("server", self._daemon("mon", "a"))
        self.await_port(_MONITOR_PORT)

    def _write_settings(self, identity: str) -> None:
        sockets = self._made("run")
        values: Mapping[str, object] = {
            "fsid": identity,
            "mon host": f"[v2:{ADDRESS}:{_MONITOR_PORT},v1:{ADDRESS}:6789]",
            "public network": f"{ADDRESS}/32",
            "cluster network": f"{ADDRESS}/32",
            "ms bind ipv6": "false",
            "auth cluster required": "none",
            "auth service required": "none",
            "auth client required": "none",
            "osd pool default size": self.copies,
            "osd pool default min size": 1,
            "osd crush chooseleaf type": 0,  # copies on one host
            "osd pool default pg autoscale mode": "off",
            "bluestore block size": _OSD_BYTES,
            "mon data avail warn": 2,
            "mon data avail crit": 1,
            "run dir": sockets,
            "crash dir": sockets,
            "admin socket": sockets / "$name.$pid.asok",
            "pid file": sockets / "$name.pid",
            "log file": self._made("logs") / "$name.log",
            **{f"{kind} data": self.directory / f"{kind}-$id" for kind in ("mon", "mgr", "mds", "osd")},
        }
        lines = ["[global]", *(f"{key} = {value}" for key, value in values.items())]
        self._settings.write_text("\n".join(lines) + "\n")

    @property
    def _settings(self) -> Path:
        return self.directory / "ceph.conf"

    def _tool(self, name: str) -> tuple[str, str, Path]:
        return name, "-c", self._settings

    def _daemon(self, kind: str, name: str) -> Sequence[str | Path]:
        return [*self._tool(f"ceph-{kind}"), "-f", "-i", name]

    def _ceph(self, *arguments: str) -> str:
        return self.run(*self._tool("ceph"), *arguments, role="other")

    def _made(self, name: str) -> Path:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        return directory

    def mount_command(self) -> Sequence[str | Path]:
        """Its client in user space."""
        return [*self._tool("ceph-fuse"), "-f", "-n", "client.admin", self.place]
