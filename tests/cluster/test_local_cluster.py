"""`cairnfs up` and `cairnfs down` with real processes, and what they refuse in one line."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cairnfs.local.processes import read_pid_file

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]


@dataclass(frozen=True)
class Local:
    """One data directory and its mount."""

    data: Path
    mount: Path

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cairnfs.cli", words[0], "--data", str(self.data), *words[1:]]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, cwd=self.data.parent
        )

    def up(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run("up", "--mount", str(self.mount), "--listen", "127.0.0.1:0", *words)

    def pids(self) -> dict[str, int]:
        found = {file.stem: read_pid_file(file) for file in sorted((self.data / "run").glob("*.pid"))}
        return {name: process.pid for name, process in found.items() if process is not None}


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path / "var", tmp_path / "mnt")
    yield made
    made.run("down", "--force")


def test_up_is_harmless_to_repeat_and_brings_everything_back(local: Local) -> None:
    assert local.up("--datanodes", "2").returncode == 0
    before = local.pids()
    assert sorted(before) == ["coordinator", "datanode-1", "datanode-2", "mount"]
    (local.mount / "file").write_text("kept")

    again = local.up()
    assert (again.returncode, local.pids()) == (0, before)
    assert again.stdout.startswith("everything runs already")

    os.kill(before["datanode-2"], 9)
    assert local.up("--datanodes", "3").stdout.startswith("started datanode-2, datanode-3\n")

    assert local.run("down").returncode == 0
    assert local.pids() == {}
    assert not local.mount.is_mount()
    assert local.run("down").stdout == "nothing runs\n"

    assert local.up().returncode == 0
    assert (local.mount / "file").read_text() == "kept"


def test_a_busy_mount_is_left_alone_and_its_holder_named(local: Local) -> None:
    assert local.up("--datanodes", "1", "--replicas", "1").returncode == 0
    held = os.open(local.mount / "open", os.O_CREAT | os.O_WRONLY)
    try:
        refused = local.run("down")
        assert refused.returncode == 1
        name = Path("/proc/self/comm").read_text().strip()
        assert f"is busy, held by {name} ({os.getpid()})" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert len(local.pids()) == 3
        assert local.run("down", "--force").returncode == 0
    finally:
        with contextlib.suppress(OSError):  # its file system is gone
            os.close(held)
    assert local.pids() == {}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--replicas", "3"), "keeps 1 replicas; that cannot be changed to 3"),
        (("--mount", "elsewhere"), "run cairnfs down first"),
    ],
)
def test_what_cannot_be_changed_is_refused(local: Local, words: tuple[str, ...], reason: str) -> None:
    assert local.up("--datanodes", "1", "--replicas", "1").returncode == 0
    before = local.pids()
    refused = local.run("up", *words)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert reason in refused.stderr
    assert local.pids() == before


def test_nothing_is_left_half_started(local: Local) -> None:
    local.mount.mkdir()
    (local.mount / "in the way").write_text("kept")
    failed = local.up("--datanodes", "1", "--replicas", "1")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "not empty" in failed.stderr
    assert local.pids() == {}
    assert (local.mount / "in the way").read_text() == "kept"


def test_up_waits_for_every_datanode(local: Local) -> None:
    """It used to return while datanodes were on their way, and the first writes found too few of them."""
    assert local.up("--datanodes", "3").returncode == 0
    listed = json.loads(local.run("nodes", "--json").stdout)["nodes"]
    assert [node["state"] for node in listed] == ["healthy"] * 3


def test_up_interrupted_leaves_nothing_half_started(local: Local) -> None:
    command = [sys.executable, "-m", "cairnfs.cli", "up", "--data", str(local.data)]
    starting = subprocess.Popen(
        [*command, "--mount", str(local.mount), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background of a shell has the signal ignored, also for children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while "datanode-1" not in local.pids():
        assert starting.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.01)
    starting.send_signal(signal.SIGINT)
    _, said = starting.communicate(timeout=60)
    assert (starting.returncode, said) == (130, "cairnfs: interrupted\n")
    assert local.pids() == {}
    assert not local.mount.is_mount()


def test_a_mount_that_lost_its_supervisor_is_kept_and_stopped(local: Local) -> None:
    """`up` took it for another cluster's, and `down` left it behind without a coordinator."""
    assert local.up("--datanodes", "1", "--replicas", "1").returncode == 0
    os.kill(local.pids()["mount"], signal.SIGKILL)
    assert local.up().stdout.startswith("everything runs already\n")
    (local.mount / "file").write_text("kept")
    assert local.run("down").returncode == 0
    assert not local.mount.is_mount()
