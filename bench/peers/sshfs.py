"""sshfs: one OpenSSH server, one copy."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.peers.system import ADDRESS, System

_PORT = 2222


class SSHFS(System):
    """With keys of its own; nothing of the user's configuration is read."""

    name: ClassVar[str] = "sshfs"
    title: ClassVar[str] = "sshfs"
    copies: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("sshfs", "openssh-server", "openssh-client")

    def start_servers(self) -> None:
        """Make keys, and start sshd."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        (self.directory / "files").mkdir()
        for key in ("host", "user"):
            self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.directory / key)
        settings = self.directory / "sshd_config"
        settings.write_text(
            f"Port {_PORT}\n"
            f"ListenAddress {ADDRESS}\n"
            f"HostKey {self.directory / 'host'}\n"
            f"AuthorizedKeysFile {self.directory / 'user.pub'}\n"
            "StrictModes no\n"
            "PermitRootLogin prohibit-password\n"
            "UsePAM no\n"
            "PidFile none\n"
            "Subsystem sftp internal-sftp\n"
        )
        self.spawn("server", [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", settings])
        self.await_port(_PORT)

    def mount_command(self) -> Sequence[str | Path]:
        """Its client."""
        options = (
            f"IdentityFile={self.directory / 'user'},StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
        )
        source = f"root@{ADDRESS}:{self.directory / 'files'}"
        return ["sshfs", "-f", "-F", "/dev/null", "-p", str(_PORT), "-o", options, source, self.place]
