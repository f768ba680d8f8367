"""GlusterFS: a volume of two replicas on two bricks of this host, with the default translators."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.peers.system import ADDRESS, START_S, StartError, System

_PORT = 24007
_VOLUME = "bench"


class GlusterFS(System):
    """glusterd keeps its state below the directory; its sockets and logs go into the sandbox."""

    name: ClassVar[str] = "glusterfs"
    title: ClassVar[str] = "GlusterFS"
    copies: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("glusterfs-server", "glusterfs-client")

    def start_servers(self) -> None:
        """Start glusterd, and create and start the volume."""
        state, logs = self.directory / "glusterd", self.directory / "logs"
        for directory in (state, logs, Path("/var/log/glusterfs/bricks")):
            directory.mkdir(parents=True)
        volfile = self.directory / "glusterd.vol"
        volfile.write_text(
            "volume management\n"
            "  type mgmt/glusterd\n"
            f"  option working-directory {state}\n"
            "  option transport-type socket\n"
            f"  option transport.socket.bind-address {ADDRESS}\n"
            f"  option transport.socket.listen-port {_PORT}\n"
            "end-volume\n"
        )
        self.spawn("server", ["glusterd", "-N", f"--volfile={volfile}", "-l", logs / "glusterd.log"])
        self.await_port(_PORT)
        bricks = [self.directory / f"brick-{number}" for number in range(1, self.copies + 1)]
        for brick in bricks:
            brick.mkdir()
        self._await_glusterd()
        places = [f"{ADDRESS}:{brick}" for brick in bricks]
        self._gluster("volume", "create", _VOLUME, "replica", str(self.copies), *places, "force")
        self._gluster("volume", "start", _VOLUME)

    def _gluster(self, *arguments: str) -> str:
        return self.run("gluster", "--mode=script", *arguments)

    def _await_glusterd(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._gluster("volume", "list")
            except StartError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return

    def mount_command(self) -> Sequence[str | Path]:
        """Its client."""
        log = self.directory / "logs" / "client.log"
        return [
            "glusterfs",
            "-N",
            f"--volfile-server={ADDRESS}",
            f"--volfile-id={_VOLUME}",
            f"--log-file={log}",
            self.place,
        ]
