"""How much users can store when every chunk lies on several different nodes."""

from collections import Counter
from collections.abc import Sequence

from cairnfs.coordinator.membership.node import Node


def storable_bytes(node_bytes: Sequence[int], replicas: int) -> int:
    """The most data that fits with `replicas` copies each on nodes of these sizes, never two on one node.

    With fewer nodes than replicas a chunk lies once on every node. No node can hold more than one copy
    of everything, so large nodes count only as far as the others can hold their partners.
    """
    if replicas < 1:
        raise ValueError("a chunk has at least one replica")
    sizes = sorted((max(0, size) for size in node_bytes), reverse=True)
    copies = min(replicas, len(sizes))
    return min((sum(sizes[full:]) // (copies - full) for full in range(copies)), default=0)


def shared_free_bytes(nodes: Sequence[Node]) -> list[int]:
    """What each node can take when all of them fill up: an equal part of a file system that several use."""
    sharers = Counter(node.filesystem for node in nodes)
    most = dict[str, int]()
    for node in nodes:
        most[node.filesystem] = max(most.get(node.filesystem, 0), node.free_bytes)
    free: list[int] = []
    for node in nodes:
        part = most[node.filesystem] // sharers[node.filesystem] if node.filesystem else node.free_bytes
        free.append(0 if node.read_only else min(node.free_bytes, part))
    return free
