"""A real PostgreSQL server for tests: on a socket of its own, killed and started on purpose."""

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

PATIENCE_S = 30.0
_schemas = count(1)


def _binaries() -> Path:
    """Where initdb and postgres are: Debian keeps them out of PATH."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: int(path.split("/")[4]))
    if found:
        return Path(found[-1]).parent
    if path := shutil.which("postgres"):
        return Path(path).resolve().parent
    raise AssertionError("PostgreSQL is missing: scripts/setup.sh dev installs it")


class PostgresServer:
    """One server; root runs it as nobody, since it refuses to be root's."""

    def __init__(self, *, fsync: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cairnfs-pg-"))
        self._binaries = _binaries()
        self._fsync = fsync
        self._child: subprocess.Popen[bytes] | None = None
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.directory, self._user, -1)
        arguments = ["--auth=trust", "--username=cairnfs", "--no-sync", "--encoding=UTF8", "--no-locale"]
        made = subprocess.run(
            [str(self._binaries / "initdb"), *arguments, "-D", str(self.directory / "data")],
            user=self._user,
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        self.start()

    def url(self, schema: str = "") -> str:
        """The URL of an engine of its own, or of the one in `schema`."""
        name = schema or f"test_{os.getpid()}_{next(_schemas)}"
        told = "" if self._fsync else "&fsync=off"
        return f"postgresql://cairnfs@/postgres?host={self.directory}&schema={name}{told}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
            "shared_buffers": "16MB",
            "max_wal_size": "128MB",
            "autovacuum": "off",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self._child = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self.directory / "data"), *words],
                user=self._user,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._takes_connections():
            assert self._child.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def _takes_connections(self) -> bool:
        command = [str(self._binaries / "pg_isready"), "-q", "-h", str(self.directory)]
        return subprocess.run(command, check=False).returncode == 0

    def log(self) -> str:
        """What it wrote."""
        return (self.directory / "log").read_text(errors="replace")

    def kill(self) -> None:
        """Kill -9 of all its processes, as a power cut."""
        assert self._child is not None
        doomed = [self._child.pid, *self._children()]
        for process_id in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        self._child.wait()
        while any(map(_runs, doomed)):
            time.sleep(0.01)

    def _children(self) -> list[int]:
        assert self._child is not None
        path = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def close(self) -> None:
        """Stop it and remove what it wrote."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGINT)
            try:
                self._child.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory)


def _runs(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
