"""One cluster with two mounts for all tests of a module, checked at the end; and helpers of such tests."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cairnfs.client import admin
from tests.cluster.harness import PATIENCE_S, Cluster, Mount

NOT_FAULTS = ("inodes", "directories", "chunks", "unreferenced", "over_replicated")


@dataclass(slots=True)
class Pair:
    """A running cluster, and two mounts of it."""

    cluster: Cluster
    one: Mount
    two: Mount


@contextmanager
def pair(factory: pytest.TempPathFactory, name: str, *, lease_s: float = 10.0) -> Iterator[Pair]:
    """Three datanodes, two replicas, two mounts; at the end the whole is checked, data included."""
    cluster = Cluster(factory.mktemp(name) / "cluster")
    try:
        cluster.start(datanodes=3, lease_s=str(lease_s))
        yield Pair(cluster, cluster.mount(), cluster.mount())
        assert_sound(cluster)
    finally:
        cluster.stop()


def assert_sound(cluster: Cluster, patience_s: float = PATIENCE_S) -> None:
    """All replicas come back in time, and then the whole file system, data included, is without a fault."""
    cluster.wait_until_replicated(patience_s)
    report = admin.fsck(cluster.coordinator.address, verify_data=True)
    faults = {
        field.name: value
        for field, value in report.ListFields()
        if field.name not in NOT_FAULTS and field.name != "problems"
    }
    assert not faults, (faults, list(report.problems))


def eventually(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Ask again and again until `condition()` holds; fails naming `what` after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s:.0f} s in vain for {what}"
        time.sleep(0.05)


def run(*command: str | Path, cwd: Path | None = None, timeout_s: float = PATIENCE_S * 2) -> str:
    """Run a program that must succeed; returns what it wrote to stdout."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def same(ours: Path, theirs: Path) -> None:
    """Names, content and attributes of two trees agree, as rsync sees them."""
    assert run("rsync", "-nacHX", "--delete", "--itemize-changes", f"{ours}/", f"{theirs}/") == ""
