"""Identifiers: how they are made, and who shares a host."""

import uuid
from collections.abc import Sequence
from pathlib import Path


def new_id() -> str:
    """A random identifier for a session, a cluster or a datanode (a UUID 4 in hex)."""
    return uuid.uuid4().hex


def host_id() -> str:
    """Equal for processes that reach each other's abstract Unix sockets: boot id and network namespace."""
    namespace = Path("/proc/self/ns/net").readlink()
    return f"{boot_id()}/{namespace}"


def boot_id() -> str:
    """Equal for processes on one running kernel, whatever container they are in."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def reader_node(chunk_id: bytes, nodes: Sequence[int]) -> int:
    """The datanode among the holders of a chunk that is asked for it first; 0 when there is none.

    Writers and readers choose alike, so a chunk is kept in the memory of one host only.
    """
    return sorted(nodes)[chunk_id[0] % len(nodes)] if nodes else 0
