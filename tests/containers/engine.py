"""A Docker engine for the tests: the one that runs, or a private one that leaves nothing behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

START_S = 60.0
STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Engine:
    """How to reach one engine."""

    host: str

    def docker(self, *arguments: str | Path, timeout_s: float = 900.0) -> str:
        """Run `docker` and return its stdout; raises AssertionError with what it said."""
        return _run(["docker", *arguments], self.host, timeout_s)

    def compose(self, *arguments: str | Path, timeout_s: float = 900.0, **variables: str) -> str:
        """Run Docker Compose, the plug-in or the older program, and return its stdout."""
        return _run([*_compose(), *arguments], self.host, timeout_s, **variables)


def _run(command: list[str | Path], host: str, timeout_s: float, **variables: str) -> str:
    environment = {**os.environ, "DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0", **variables}
    if host:
        environment["DOCKER_HOST"] = host
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def _compose() -> list[str | Path]:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        pytest.skip("Docker Compose is missing (scripts/setup.sh containers installs it)")
    return ["docker-compose"]


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """The engine of this machine, or one of our own when we are root and have dockerd; skips otherwise."""
    if shutil.which("docker") is None:
        pytest.skip("docker is missing (scripts/setup.sh containers installs it)")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        yield Engine("")
    elif os.geteuid() == 0 and shutil.which("dockerd") is not None:
        with _private() as private:
            yield private
    else:
        pytest.skip("no Docker engine runs here, and only root can start one")


@contextlib.contextmanager
def _private() -> Iterator[Engine]:
    """dockerd without firewall rules or a bridge of its own, so that it changes nothing on this machine."""
    home = Path(tempfile.mkdtemp(prefix="cairnfs-docker-", dir="/var/tmp"))
    host = f"unix://{home}/socket"
    command = [
        "dockerd",
        f"--data-root={home}/data",
        f"--exec-root={home}/run",
        f"--pidfile={home}/pid",
        f"--host={host}",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
    ]
    with (home / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(daemon, host, home / "log")
        yield Engine(host)
    finally:
        daemon.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(STOP_S)
        daemon.kill()
        daemon.wait()
        _unmount_below(home)
        shutil.rmtree(home, ignore_errors=True)


def _wait(daemon: "subprocess.Popen[bytes]", host: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    command = ["docker", "--host", host, "info"]
    while subprocess.run(command, capture_output=True, check=False).returncode != 0:
        if daemon.poll() is not None or time.monotonic() > deadline:
            reason = log.read_text(errors="replace").splitlines()[-1:]
            pytest.skip(f"no Docker engine can be started here: {' '.join(reason)}")
        time.sleep(0.2)


def _unmount_below(home: Path) -> None:
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if (place := line.split()[1]).startswith(f"{home}/"):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
