"""How much users can store when every chunk lies on several different nodes."""

from collections.abc import Sequence


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
