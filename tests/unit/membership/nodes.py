"""Datanodes for membership tests: registrations and heartbeats with little typing."""

from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

GIB = 1 << 30


def disk_use(
    free_bytes: int = 10 * GIB, *, capacity_bytes: int = 20 * GIB, read_only: bool = False
) -> nodes_pb2.DiskUse:
    """Disk figures."""
    return nodes_pb2.DiskUse(
        capacity_bytes=capacity_bytes,
        used_bytes=capacity_bytes - free_bytes,
        available_bytes=free_bytes,
        read_only=read_only,
    )


class Members:
    """A manager, and nodes that join it and beat."""

    def __init__(self, replicas: int = 2, grace_s: float = 60.0) -> None:
        self.settings = CoordinatorSettings(replicas=replicas, garbage_grace_s=grace_s)
        self.manager = NodeManager(self.settings, "cluster", wall_ms=lambda: 1_000_000 + int(self.now * 1000))
        self.now = 100.0
        self.told: list[common_pb2.NodeUpdate] = []
        self.manager.subscribe(self.told.append)

    def join(self, number: int, rack: str = "", host: str = "", free_bytes: int = 10 * GIB) -> None:
        """Register a node and let it beat."""
        self.register(number, rack, host)
        self.beat(number, disk=disk_use(free_bytes))

    def register(self, number: int, rack: str = "", host: str = "") -> None:
        """Register a node, as if its record were durable."""
        info = common_pb2.NodeInfo(
            node=number,
            uuid=f"uuid-{number}",
            address=f"host:{number}",
            host_id=host or f"host-{number}",
            rack=rack,
        )
        self.manager.registered(info, disk_use(), self.now)

    def beat(
        self,
        number: int,
        *,
        disk: nodes_pb2.DiskUse | None = None,
        seen_version: int = 0,
        boot: str = "boot",
        seq: int = 0,
        cluster_id: str = "cluster",
    ) -> nodes_pb2.HeartbeatReply:
        """One heartbeat now."""
        request = nodes_pb2.HeartbeatRequest(
            node=number,
            uuid=f"uuid-{number}",
            disk=disk or disk_use(),
            seen_version=seen_version,
            boot=boot,
            store_seq=seq,
            cluster_id=cluster_id,
        )
        return self.manager.heartbeat(request, self.now)

    def pass_time(self, seconds: float) -> None:
        """Let time pass and silence take effect."""
        self.now += seconds
        self.manager.tick(self.now)

    def state(self, number: int) -> str:
        """The state's name in lower case."""
        node = self.manager.get(number)
        assert node is not None
        return common_pb2.NodeState.Name(node.state).removeprefix("NODE_STATE_").lower()
