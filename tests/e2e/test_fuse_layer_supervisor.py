"""The supervisor over real mounts: restarts after a kill, ends after an unmount, passes on failures."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cairnfs.fuse import mounts
from tests.cluster.shared import eventually
from tests.doubles.mounted import ROOT

pytestmark = pytest.mark.fuse

PROGRAM = """
import os, sys
from pathlib import Path
from cairnfs.mount import background
from cairnfs.mount.supervisor import Supervisor

mountpoint, pids = Path(sys.argv[1]), Path(sys.argv[2])

def serve(ready_fd):
    with pids.open("a") as log:
        log.write(f"{os.getpid()}\\n")
    if "--fail" in sys.argv:
        print("cannot: for a reason", file=sys.stderr, flush=True)
        return 32
    from tests.doubles.memory_mount import serve_memory
    serve_memory(mountpoint, ready_fd)
    return 0

sys.exit(background.start(lambda answered: Supervisor(mountpoint, serve, Once(answered)).run()))
"""
ONCE = """
class Once:
    def __init__(self, call):
        self.call = call
    def __call__(self):
        if self.call is not None:
            self.call()
            background.detach_output(None)
            self.call = None
"""


class Supervised:
    def __init__(self, directory: Path, *arguments: str) -> None:
        self.path = directory / "mnt"
        self.path.mkdir()
        self._pids = directory / "pids"
        program = PROGRAM.replace("mountpoint, pids =", ONCE + "\nmountpoint, pids =")
        self.started = subprocess.run(
            [sys.executable, "-c", program, str(self.path), str(self._pids), *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def pids(self) -> list[int]:
        return [int(line) for line in self._pids.read_text().split()]

    def supervisor(self) -> int:
        return int(Path(f"/proc/{self.pids()[-1]}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def supervised(directory: Path, *arguments: str) -> Iterator[Supervised]:
    running = Supervised(directory, *arguments)
    try:
        yield running
    finally:
        entry = mounts.mount_at(running.path)
        if entry is not None:
            subprocess.run(["umount", "--lazy", running.path], check=False)
        eventually(lambda: not any(alive(pid) for pid in running.pids()), "the end of all processes")


def alive(pid: int) -> bool:
    """Whether it runs: where no init collects it, a process that has ended stays as a zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def answers(path: Path) -> bool:
    try:
        return mounts.is_mounted(path) and os.statvfs(path).f_namemax == 255
    except OSError:
        return False


def test_a_killed_process_is_replaced_and_an_unmount_ends_all(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        assert running.started.returncode == 0, running.started.stderr
        assert answers(running.path), "in the background before the mount answered"
        (first,) = running.pids()
        supervisor = running.supervisor()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: len(running.pids()) == 2 and answers(running.path), "a new process that answers")
        subprocess.run(["umount", running.path], check=True)
        eventually(lambda: not alive(supervisor), "the end of the supervisor")
        assert len(running.pids()) == 2
        assert not mounts.is_mounted(running.path)


def test_a_signal_to_the_supervisor_unmounts(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        assert running.started.returncode == 0, running.started.stderr
        supervisor = running.supervisor()
        os.kill(supervisor, signal.SIGTERM)
        eventually(lambda: not alive(supervisor), "the end of the supervisor")
        assert not mounts.is_mounted(running.path)
        assert len(running.pids()) == 1


def test_a_first_failure_is_passed_on(tmp_path: Path) -> None:
    with supervised(tmp_path, "--fail") as running:
        assert running.started.returncode == 32
        assert running.started.stderr == "cannot: for a reason\n"
        assert len(running.pids()) == 1
        assert json.dumps(running.started.stdout) == '""'
