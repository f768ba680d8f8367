"""Torture runs over real directories: mounts of a cluster, or one local directory to test the model."""

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tests.cluster.harness import Cluster
from tests.torture.mounted import Mounted
from tests.torture.operations import Op, Result
from tests.torture.trial import Mismatch, Trial


class RealWorld:
    """Actors work in threads of this process, each below its mount."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted

    async def run(self, op: Op) -> Result:
        """Carry out one call."""
        return await trio.to_thread.run_sync(self._mounted.run, op, abandon_on_cancel=True)

    def complaint(self) -> str:
        """Nothing: processes of mounts log elsewhere."""
        return ""


def run_real(
    roots: list[Path],
    work: Callable[[Trial], Awaitable[None]],
    *,
    happenings: dict[str, Callable[[Op], None]] | None = None,
    inos_return: bool = False,
) -> tuple[Trial, Mismatch | None]:
    """Run `work` below empty directories: the trial, and what went wrong."""
    mounted = Mounted(roots, {"wait": lambda op: time.sleep(min(op.args[0], 2.0)), **(happenings or {})})
    trial = Trial(RealWorld(mounted), len(roots), inos_return=inos_return)
    mask = os.umask(0)
    try:
        trio.run(work, trial)
    except Mismatch as mismatch:
        return trial, mismatch
    finally:
        os.umask(mask)
        mounted.close()
    return trial, None


def work_directories(cluster: Cluster, name: str) -> list[Path]:
    """The same fresh directory, as every mount of the cluster has it."""
    (cluster.mounts[0].path / name).mkdir()
    roots = [mount.path / name for mount in cluster.mounts]
    os.chmod(roots[0], 0o755)
    return roots


def restarts(cluster: Cluster) -> dict[str, Callable[[Op], None]]:
    """What may happen to a cluster besides: its coordinator is killed and started again."""

    def restart(_op: Op) -> None:
        cluster.coordinator.kill()
        cluster.coordinator.start()

    return {"restart": restart}
