"""The newest cluster map: which datanodes there are, by number."""

from cairnfs.rpc.v1 import common_pb2


class ClusterView:
    """Applies the full map and the numbered updates of the membership, whatever order they come in."""

    def __init__(self) -> None:
        self._nodes: dict[int, common_pb2.NodeInfo] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """The number of the last change applied."""
        return self._version

    def node(self, number: int) -> common_pb2.NodeInfo | None:
        """The datanode with this number, or None."""
        return self._nodes.get(number)

    def replace(self, cluster_map: common_pb2.ClusterMap) -> None:
        """Take over a full map; it is the truth even when its version is lower (a restored coordinator)."""
        self._nodes = {info.node: info for info in cluster_map.nodes}
        self._version = cluster_map.version

    def apply(self, update: common_pb2.NodeUpdate) -> None:
        """Apply one change; one that is older than the map is already in it."""
        if update.version <= self._version:
            return
        self._version = update.version
        if update.removed:
            self._nodes.pop(update.info.node, None)
        else:
            self._nodes[update.info.node] = update.info
