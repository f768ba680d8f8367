"""Where the real servers meet the machine: each such place is given its simulated counterpart for one run."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any, Final

import structlog

from cairnfs.base import ids
from cairnfs.coordinator import assembly, leading
from cairnfs.coordinator.upkeep import upkeep
from cairnfs.datanode import node, peers
from cairnfs.datanode.store import files, space
from cairnfs.engine import postgres_leader
from cairnfs.serving import server
from cairnfs.vfs.inodes import Inode
from tests.sim.cluster import disks, servers
from tests.sim.cluster.clockwork import current_process
from tests.sim.cluster.engines import SimCommitter

# Honest words about what faults have done.
_LEGAL: Final = (
    "unsent writes are lost: the session had ended",
    "a change could not be made after it had been reported done",
    "data directory is not used",
    "disk failed",
    "disk cannot be used",
)


def _process_time() -> Any:
    return SimpleNamespace(monotonic=lambda: current_process().clock.monotonic())


@contextmanager
def simulated(rng: Random, errors: list[str]) -> Generator[None]:
    """While entered, servers that are made are simulated, and everything random comes from `rng`.

    What is logged as an error or an exception is added to `errors`.
    """
    system_clock = lambda: current_process().clock  # noqa: E731
    replaced: list[tuple[Any, str, Any]] = [
        (ids, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=f"{rng.getrandbits(128):032x}"))),
        (upkeep, "secrets", SimpleNamespace(randbits=rng.getrandbits)),
        (server, "Server", servers.SimServer),
        (assembly, "Committer", SimCommitter),
        (assembly, "Random", servers.new_random(rng)),
        (assembly, "time", _process_time()),
        (leading, "time", _process_time()),
        (postgres_leader, "time", _process_time()),
        (node, "Server", servers.SimServer),
        (node, "SideSocket", servers.SimSideSocket),
        (node, "Disk", servers.SimDiskWork),
        (node, "SystemClock", system_clock),
        (node, "Random", servers.new_random(rng)),
        (node, "Coordinators", servers.SimCoordinators),
        (peers, "PeerConnection", servers.SimPeerConnection),
        (files, "range", disks.few_directories),
        (files.ChunkFiles, "path", disks.path_in_few),
        (Inode, "__hash__", lambda inode: inode.ino),  # sets of them have an order that the seed decides
        (space, "boot_id", lambda: current_process().name),
    ]

    def note(_logger: object, method: str, event: Any) -> Any:
        if method in ("error", "exception", "critical") and str(event.get("event")) not in _LEGAL:
            errors.append(f"logged: {event}")
        raise structlog.DropEvent

    before = [(module, name, vars(module).get(name)) for module, name, _ in replaced]
    state, processors = random.getstate(), structlog.get_config()["processors"]
    random.seed(rng.getrandbits(64))
    structlog.configure(processors=[note])
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            if value is None:
                delattr(module, name)
            else:
                setattr(module, name, value)
        structlog.configure(processors=processors)
        random.setstate(state)
