"""Identifiers: how they are made, and who shares a host."""

import uuid
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
