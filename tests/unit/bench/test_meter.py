"""Steps run apart, within a bound, and CPU time is told by who used it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.meter import Done, cpu_s, measure, run_apart
from bench.peers.local import Local
from bench.peers.system import MARK, StartError

BUSY = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ntime.sleep(60)"


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Local]:
    system = Local(tmp_path / "local", tmp_path)
    yield system
    system.stop()


def test_what_a_step_did_is_told(system: Local) -> None:
    found = measure(system, "mkdir", 4, lambda: Done(10, 2.0), 10.0)
    assert (found.system, found.row, found.round) == ("local", "mkdir", 4)
    assert (found.amount, found.wall_s, found.error) == (10, 2.0, "")


def test_the_cpu_time_of_the_caller_is_counted(system: Local) -> None:
    def work() -> Done:
        while time.process_time() < 0.2:
            pass
        return Done(1, 0.2)

    assert measure(system, "mkdir", 0, work, 10.0).caller_cpu_s >= 0.2


def test_a_step_that_fails_is_told_with_its_error(system: Local) -> None:
    found = measure(system, "mkdir", 0, lambda: Done(os.stat("/nonexistent").st_size, 1.0), 10.0)
    assert "FileNotFoundError" in found.error
    assert found.amount == 0


def test_a_step_that_takes_too_long_is_ended() -> None:
    def work() -> Done:
        time.sleep(60)
        return Done(1, 60.0)

    started = time.monotonic()
    assert run_apart(work, 0.2).error == "took longer than 0 s"
    assert time.monotonic() - started < 30


def test_a_step_that_dies_is_told() -> None:
    assert run_apart(lambda: os._exit(3), 10.0).error == "died"


def test_cpu_time_belongs_to_the_role_that_a_process_was_started_in(system: Local) -> None:
    server = system.spawn("server", [sys.executable, "-c", BUSY])
    log = system.directory / "log"
    while not log.read_text():
        time.sleep(0.01)
    client_s, server_s = cpu_s(system)
    assert client_s == 0
    assert server_s >= 0.25
    assert server.poll() is None


def test_what_a_server_started_belongs_to_it_even_without_a_mark(system: Local) -> None:
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}], env={{}})"
    system.spawn("server", [sys.executable, "-c", parent])
    log = system.directory / "log"
    while not log.read_text():
        time.sleep(0.01)
    assert cpu_s(system)[1] >= 0.25
    (child,) = Path(f"/proc/{next(iter(system.started))}/task").glob("*/children")
    os.kill(int(child.read_text()), signal.SIGKILL)


def test_processes_that_servers_start_are_found_by_their_environment(system: Local) -> None:
    grandchild = subprocess.Popen(
        [sys.executable, "-c", BUSY], env={**os.environ, MARK: "local/client"}, stdout=subprocess.PIPE
    )
    with grandchild:
        assert grandchild.stdout is not None
        grandchild.stdout.readline()
        used_s = cpu_s(system)
        grandchild.kill()
    assert used_s[0] >= 0.25
    assert used_s[1] == 0


def test_a_command_that_fails_is_told_with_what_it_said(system: Local) -> None:
    with pytest.raises(StartError, match="no such thing"):
        system.run(sys.executable, "-c", "raise SystemExit('no such thing')")
