"""State file, pid files and starting of processes of the local cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cairnfs.local.cluster import prepare
from cairnfs.local.errors import LocalClusterError
from cairnfs.local.layout import Layout
from cairnfs.local.processes import Process, read_pid_file, start, write_pid_file
from cairnfs.local.settings import ClusterSettings
from cairnfs.local.state import ClusterState, read_state, write_state

READY = 'import os, sys, time; os.write(int(sys.argv[-1]), b\'{"address": "h:1"}\\n\'); time.sleep(60)'


def test_state_survives_a_round_trip(tmp_path: Path) -> None:
    state = ClusterState(2, Path('/a "b"\\c'), "ro,noatime", "127.0.0.1:1", ["127.0.0.1:2", ""])
    write_state(tmp_path / "cluster.toml", state)
    assert read_state(tmp_path / "cluster.toml") == state
    assert read_state(tmp_path / "none.toml") is None


@pytest.mark.parametrize("content", ["", "replicas = 'x'", "not toml"])
def test_a_damaged_state_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "cluster.toml").write_text(content)
    with pytest.raises(LocalClusterError, match="is damaged"):
        read_state(tmp_path / "cluster.toml")


def test_what_was_not_asked_for_stays_as_it_is(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_state(layout.state, ClusterState(1, Path("/m"), "ro", "h:1", ["h:2", "h:3"]))
    kept = prepare(ClusterSettings(), frozenset(), layout)
    assert (kept.mount, kept.replicas, kept.options) == (Path("/m"), 1, "ro")
    assert kept.datanodes == ["h:2", "h:3"]
    grown = prepare(ClusterSettings(datanodes=3), frozenset({"datanodes"}), layout)
    assert grown.datanodes == ["h:2", "h:3", ""]
    with pytest.raises(LocalClusterError, match="can grow, but not shrink to 1"):
        prepare(ClusterSettings(datanodes=1), frozenset({"datanodes"}), layout)
    with pytest.raises(LocalClusterError, match="cannot be changed to 2"):
        prepare(ClusterSettings(replicas=2), frozenset({"replicas"}), layout)


def test_a_process_is_started_found_and_stopped(tmp_path: Path) -> None:
    starting = start([sys.executable, "-c", READY], tmp_path / "pid", tmp_path / "log")
    assert starting.wait() == "h:1"
    process = read_pid_file(tmp_path / "pid")
    assert process == starting.process
    assert process.stop()
    assert starting.child.wait() < 0
    assert read_pid_file(tmp_path / "pid") is None


def test_a_process_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('the disk is gone')"]
    starting = start(command, tmp_path / "pid", tmp_path / "part.log")
    with pytest.raises(LocalClusterError, match=r"^part ended with status 1: the disk is gone \(log: "):
        starting.wait()
    assert not (tmp_path / "pid").exists()


def test_a_pid_that_was_given_to_another_process_is_not_ours(tmp_path: Path) -> None:
    write_pid_file(tmp_path / "pid", Process(os.getpid(), 1))
    assert read_pid_file(tmp_path / "pid") is None
    (tmp_path / "pid").write_text("rubbish")
    assert read_pid_file(tmp_path / "pid") is None


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    code = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()
    ticks = int(Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    assert not Process(child.pid, ticks).stop(patience_s=0.1)
    assert child.wait() == -9
