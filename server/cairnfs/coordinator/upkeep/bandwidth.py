"""How many bytes per second copies may move: in total, and at each node."""

from collections.abc import Sequence

from cairnfs.base.token_bucket import TokenBucket


class Bandwidth:
    """Token buckets of one kind of work; a rate of 0 does not bound. `now` is monotonic seconds.

    A copy of n bytes from one node to k others is k*n bytes in total, k*n at its source and n at each target.
    """

    def __init__(self, bytes_per_s: int, node_bytes_per_s: int, now: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.node_bytes_per_s = node_bytes_per_s
        self._total = TokenBucket(bytes_per_s, now)
        self._nodes: dict[int, TokenBucket] = {}

    def is_open(self, now: float) -> bool:
        """Whether the total leaves room for a copy."""
        return self._total.is_open(now)

    def is_node_open(self, node: int, now: float) -> bool:
        """Whether this node may take part in a copy."""
        return self._bucket(node, now).is_open(now)

    def take(self, source: int, targets: Sequence[int], size_bytes: int, now: float) -> None:
        """A copy begins."""
        self._total.take(size_bytes * len(targets), now)
        self._bucket(source, now).take(size_bytes * len(targets), now)
        for target in targets:
            self._bucket(target, now).take(size_bytes, now)

    def _bucket(self, node: int, now: float) -> TokenBucket:
        bucket = self._nodes.get(node)
        if bucket is None:
            bucket = self._nodes[node] = TokenBucket(self.node_bytes_per_s, now)
        return bucket
