"""`make bench` at a small scale: it measures, and leaves nothing behind however it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces may be refused to others"),
]


def start(scratch: Path) -> "subprocess.Popen[str]":
    options = ["--quick", "--rounds", "1", "--only", "names", "--only", "append"]
    places: list[str | Path] = ["--scratch", scratch, "--results", scratch.parent, "--name", "tried"]
    return subprocess.Popen(
        [sys.executable, ROOT / "bench" / "run.py", *options, *places],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


def left_over(scratch: Path) -> list[str]:
    """Files, mounts and processes of a run."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [
        *map(str, scratch.iterdir()),
        *(line for line in mounts if str(scratch) in line),
        *(command.decode(errors="replace") for command in commands if f"{scratch}/".encode() in command),
    ]


def test_a_run_measures_every_step_and_leaves_only_its_results(scratch: Path) -> None:
    output, errors = start(scratch).communicate(timeout=120)
    assert "| append 100 B + fsync, median, ms |" in output, errors
    measured = json.loads((scratch.parent / "tried.json").read_text())["measurements"]
    assert [found["error"] for found in measured] == [""] * len(measured)
    rows = ["append", "mkdir", "rename", "rmdir"]
    assert sorted((found["system"], found["row"]) for found in measured) == [
        (system, row) for system in ("cairnfs", "local") for row in rows
    ]
    ours = [found for found in measured if found["system"] == "cairnfs"]
    assert sum(found["client_cpu_s"] for found in ours) > 0
    assert sum(found["server_cpu_s"] for found in ours) > 0
    assert left_over(scratch) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_nothing(how: signal.Signals, scratch: Path) -> None:
    with start(scratch) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "names on" in line:
                break
        for pid in (run.pid, *family(run.pid)) if how == signal.SIGINT else (run.pid,):
            os.kill(pid, how)  # a terminal tells every process of its group
        run.communicate(timeout=60)
    assert left_over(scratch) == []


def family(pid: int) -> list[int]:
    """The keeper of the sandbox and the program in it."""
    (keeper,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [keeper, *map(int, Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split())]
