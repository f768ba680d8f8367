"""What every measured file system can do: start its servers, be mounted and unmounted, stop."""

import abc
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

ADDRESS = "10.77.0.1"  # of the sandbox; some servers refuse 127.0.0.1
MARK = "CAIRNFS_BENCH_PART"
START_S = 90.0
UNMOUNT_S = 60.0
_POLL_S = 0.05
_LAST_WORDS_BYTES = 600


class StartError(Exception):
    """A file system did not start, mount or unmount; the text says which and why."""


class System(abc.ABC):
    """A file system in a directory of its own, with its mount point below it.

    `started` has the role of each process, client or server, by number. The processes that these start are
    found by MARK=NAME/ROLE in their environment.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    copies: ClassVar[int]
    packages: ClassVar[tuple[str, ...]] = ()
    """Debian packages; the first names the version."""
    programs: ClassVar[tuple[str, ...]] = ()
    """Python packages that bring binaries; the first names the version."""
    has_client: ClassVar[bool] = True
    """Whether it can be mounted afresh, and so be cold."""
    late_s: ClassVar[float] = 0.0
    """How long a client may rest before it sends what it was told."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory = directory
        self.bin = programs / "bin"
        self.place = directory / "mount"
        self.place.mkdir(parents=True)
        self._client: subprocess.Popen[bytes] | None = None
        self._servers: list[subprocess.Popen[bytes]] = []
        self.started: dict[int, str] = {}

    def start(self) -> None:
        """Start the servers and mount."""
        self.start_servers()
        self.mount()

    @abc.abstractmethod
    def start_servers(self) -> None:
        """Start the servers with empty data, and wait until they serve."""

    @abc.abstractmethod
    def mount_command(self) -> Sequence[str | Path]:
        """The client, in the foreground."""

    def mount(self) -> None:
        """Start a client, and wait until its mount answers."""
        self._client = self.spawn("client", self.mount_command())
        self.await_mount(self._client)

    def unmount(self) -> None:
        """Unmount, and wait for the client to end."""
        self.detach()
        if self._client is not None:
            del self.started[self._client.pid]
            try:
                self._client.wait(UNMOUNT_S)
            except subprocess.TimeoutExpired:
                self._client.kill()
                raise StartError(f"the client of {self.name} does not end") from None

    def stop(self) -> None:
        """Unmount, and end the servers; the last ones are ended with the sandbox."""
        with contextlib.suppress(StartError):
            self.unmount()
        for server in reversed(self._servers):
            server.terminate()
        for server in self._servers:
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def spawn(self, role: str, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        """Start a process in the background as `client` or `server`; its output goes to a log."""
        with self._log().open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self.environment(role),
                start_new_session=True,
            )
        self.started[process.pid] = role
        if role == "server":
            self._servers.append(process)
        return process

    def run(self, *command: str | Path, role: str = "server", timeout_s: float = START_S) -> str:
        """Run a command to its end and return what it printed; raises StartError when it fails."""
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self.environment(role),
            timeout=timeout_s,
            check=False,
        )
        if result.returncode != 0:
            said = " ".join((result.stderr or result.stdout).split())
            raise StartError(f"{command[0]} failed: {said[-_LAST_WORDS_BYTES:]}")
        return result.stdout

    def environment(self, role: str) -> dict[str, str]:
        """The environment of its processes."""
        return {**os.environ, MARK: f"{self.name}/{role}"}

    def await_port(self, port: int, address: str = ADDRESS) -> None:
        """Wait until somebody listens."""
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1.0):
                return
            self._give_up_after(deadline, f"port {port} of {self.name} stays closed")

    def await_mount(self, client: subprocess.Popen[bytes]) -> None:
        """Wait until the mount is there and answers."""
        deadline = time.monotonic() + START_S
        while not self.is_mounted():
            if client.poll() is not None:
                raise StartError(f"the client of {self.name} ended: {self._last_words()}")
            self._give_up_after(deadline, f"the mount of {self.name} does not appear")
        self.run("stat", "--file-system", self.place, role="other")

    def is_mounted(self) -> bool:
        """Whether something is mounted at `place`; never touches it."""
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return any(line.split()[1] == str(self.place) for line in mounts)

    def detach(self) -> None:
        """Unmount `place`; what is busy becomes free soon, when a client still closes files."""
        deadline = time.monotonic() + UNMOUNT_S
        while self.is_mounted():
            result = subprocess.run(["umount", self.place], capture_output=True, text=True, check=False)
            if result.returncode != 0:
                self._give_up_after(deadline, f"{self.name} cannot be unmounted: {result.stderr.strip()}")

    def _give_up_after(self, deadline: float, why: str) -> None:
        if time.monotonic() > deadline:
            raise StartError(f"{why}: {self._last_words()}")
        time.sleep(_POLL_S)

    def _log(self) -> Path:
        return self.directory / "log"

    def _last_words(self) -> str:
        text = self._log().read_text(errors="replace") if self._log().exists() else ""
        return " ".join(text[-_LAST_WORDS_BYTES:].split())
