"""What this datanode knows of the cluster: who it is there, and the other nodes. Kept on disk as well."""

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from cairnfs.base.ids import host_id
from cairnfs.base.logs import get_logger
from cairnfs.datanode.disks.directories import DataDirectories
from cairnfs.rpc.v1.common_pb2 import ClusterMap, NodeInfo, NodeUpdate

_log = get_logger(__name__)
_FILE = "cluster-map"


class Membership:
    """The newest cluster map; a restarted datanode begins with the one it had."""

    def __init__(self, directories: DataDirectories) -> None:
        self._directories = directories
        self._nodes: dict[int, NodeInfo] = {}
        self.version = 0
        self.host_id = host_id()
        try:
            self._set(ClusterMap.FromString(directories.load(_FILE) or b""))
        except DecodeError:
            _log.info("ignored a damaged copy of the cluster map")

    @property
    def node(self) -> int:
        """This node's number; 0 before the first registration."""
        return self._directories.identity.node

    @property
    def cluster_id(self) -> str:
        """Empty before the first registration."""
        return self._directories.identity.cluster_id

    @property
    def uuid(self) -> str:
        """This datanode's own identity."""
        return self._directories.identity.uuid

    def peer(self, node: int) -> NodeInfo | None:
        """What is known of a node."""
        return self._nodes.get(node)

    def join(self, cluster_id: str, node: int) -> None:
        """Remember a registration, durably. Raises CairnError WRONG_CLUSTER."""
        self._directories.join(cluster_id, node)

    def replace(self, cluster_map: ClusterMap) -> None:
        """Forget what was known, and take this map."""
        self._set(cluster_map)
        self._save()

    def apply(self, updates: Iterable[NodeUpdate]) -> None:
        """Take changes, oldest first; those already known are skipped."""
        before = self.version
        for update in updates:
            if update.version <= before:
                continue
            self.version = update.version
            if update.removed:
                self._nodes.pop(update.info.node, None)
            else:
                self._nodes[update.info.node] = update.info
        if self.version != before:
            self._save()

    def _set(self, cluster_map: ClusterMap) -> None:
        self.version = cluster_map.version
        self._nodes = {info.node: info for info in cluster_map.nodes}

    def _save(self) -> None:
        cluster_map = ClusterMap(version=self.version, nodes=self._nodes.values())
        self._directories.save(_FILE, cluster_map.SerializeToString())
