"""The node manager: registrations, heartbeats, states and their timings, and who is told of changes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.membership.node import (
    DEAD,
    DRAINING,
    HEALTHY,
    JOINING,
    SUSPECT,
    Node,
    StoreHistory,
)
from cairnfs.coordinator.membership.ring import UpdateRing
from cairnfs.coordinator.membership.space import shared_free_bytes, storable_bytes
from cairnfs.coordinator.records import Wish
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

log = get_logger(__name__)

Listener = Callable[[common_pb2.NodeUpdate], None]
_STATE_NAME: Final = {
    JOINING: "joining",
    HEALTHY: "healthy",
    SUSPECT: "suspect",
    DEAD: "dead",
    DRAINING: "draining",
}


class NodeManager:
    """All datanodes and their numbered changes; a plain state machine, `now` is monotonic seconds.

    Durable identities come from the engine (`nodes_table`): first `restore`, then `registered` for each
    registration that was committed.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        cluster_id: str,
        *,
        first_version: int = 0,
        wall_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """`wall_ms` gives the wall time, in milliseconds, to be shown."""
        self.cluster_id = cluster_id
        self.replicas = settings.replicas
        self._settings = settings
        self._wall_ms = wall_ms
        self._ring = UpdateRing(first_version=first_version)
        self._nodes: dict[int, Node] = {}
        self._listeners: list[Listener] = []

    # ------------------------------------------------------------------ who is there

    def restore(self, records: Iterable[common_pb2.NodeInfo], now: float) -> None:
        """Take over the durable identities at start; each node is suspect until it is heard."""
        for record in records:
            self._nodes[record.node] = self._new_node(record, SUSPECT, now)

    def registered(self, record: common_pb2.NodeInfo, disk: nodes_pb2.DiskUse, now: float) -> Node:
        """A registration is durable: the node joins, to be healthy with its first heartbeat."""
        node = self._nodes.get(record.node)
        if node is None:
            node = self._nodes[record.node] = self._new_node(record, JOINING, now)
        node.identify(record)
        node.measure(disk)
        self._hear(node, now)
        node.state = JOINING
        log.info("datanode registered", node=node.number, uuid=node.uuid, address=node.address)
        self._changed(node)
        node.address_version = node.seen_version = self._ring.version  # the answer carries the map
        return node

    def remove(self, number: int) -> None:
        """Forget a node whose durable record is gone; unknown numbers are ignored."""
        node = self._nodes.pop(number, None)
        if node is not None:
            log.info("datanode removed", node=number)
            self._publish(self._ring.append(node.info(), removed=True))

    def set_draining(self, number: int, draining: bool) -> None:
        """Start or stop draining; a silent node shows it when it is heard again.

        Raises CairnError NODE_UNKNOWN.
        """
        node = self._known(number)
        node.draining = draining
        if node.state in (HEALTHY, DRAINING):
            self._enter(node, DRAINING if draining else HEALTHY)

    def set_failing(self, number: int, trouble: str) -> None:
        """Trust a node no longer, for this reason, or (an empty one) again; unknown numbers are ignored."""
        node = self._nodes.get(number)
        if node is not None and node.failing != bool(trouble):
            node.failing, node.trouble = bool(trouble), trouble
            self._changed(node)

    def set_slow(self, number: int, trouble: str) -> None:
        """Avoid a node for this reason, or (an empty one) no longer; unknown numbers are ignored."""
        node = self._nodes.get(number)
        if node is not None and node.slow != bool(trouble):
            node.slow = bool(trouble)
            if not node.failing:
                node.trouble = trouble
            log.info("datanode changed speed", node=number, slow=node.slow, detail=trouble)
            self._changed(node)

    # ------------------------------------------------------------------ life signs

    def check_cluster(self, cluster_id: str) -> None:
        """Raises CairnError WRONG_CLUSTER unless `cluster_id` is ours or empty."""
        if cluster_id and cluster_id != self.cluster_id:
            raise CairnError(
                common_pb2.ERROR_CODE_WRONG_CLUSTER,
                f"this datanode holds data of cluster {cluster_id}, but the coordinator serves cluster "
                f"{self.cluster_id}; check its coordinator address, or give it an empty data directory",
            )

    def heartbeat(self, request: nodes_pb2.HeartbeatRequest, now: float) -> nodes_pb2.HeartbeatReply:
        """Note a sign of life and tell what the node missed.

        Raises CairnError WRONG_CLUSTER, or NODE_UNKNOWN when the node must register again.
        """
        self.check_cluster(request.cluster_id)
        node = self.identified(request.node, request.uuid)
        node.seen_version = max(node.seen_version, request.seen_version)
        node.history.note(request.boot, request.store_seq, now)
        was_read_only = node.read_only
        node.measure(request.disk)
        self._hear(node, now)
        target = DRAINING if node.draining else HEALTHY
        if node.state != target:
            self._enter(node, target)
        elif node.read_only != was_read_only:
            self._changed(node)
        return self._news(request.seen_version)

    def identified(self, number: int, uuid: str) -> Node:
        """The node with this number and identity; raises CairnError NODE_UNKNOWN for any other."""
        node = self._nodes.get(number)
        if node is None or node.uuid != uuid:
            raise CairnError(
                common_pb2.ERROR_CODE_NODE_UNKNOWN, f"no datanode {number} with identity {uuid} is registered"
            )
        return node

    def tick(self, now: float) -> None:
        """Let silence take effect: healthy to suspect to dead."""
        for node in self._nodes.values():
            silence_s = now - node.last_heard_s
            if silence_s >= self._settings.dead_s and node.state != DEAD:
                self._enter(node, DEAD)
            elif silence_s >= self._settings.suspect_s and node.state not in (SUSPECT, DEAD):
                self._enter(node, SUSPECT)

    # ------------------------------------------------------------------ what others ask

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._nodes.values()))

    def get(self, number: int) -> Node | None:
        """The node with this number, if there is one."""
        return self._nodes.get(number)

    def is_alive(self, number: int) -> bool:
        """Whether a replica on this node counts: it is known and not dead."""
        node = self._nodes.get(number)
        return node is not None and node.alive

    def keeps_replicas(self, number: int) -> bool:
        """Whether a replica on this node counts for good: alive, and not to be emptied."""
        node = self._nodes.get(number)
        return node is not None and node.keeps

    def usable(self) -> list[Node]:
        """The nodes that may take new chunks."""
        return [node for node in self._nodes.values() if node.usable]

    def wanted_replicas(self, wish: Wish) -> int:
        """How many replicas a chunk should have: what is wished, as far as there are nodes to keep them."""
        keepers = sum(1 for node in self._nodes.values() if node.keeps)
        return max(1, min(wish.count(self.replicas), keepers))

    def debit(self, number: int, size_bytes: int) -> None:
        """Count planned bytes against a node until its next heartbeat, so that a burst spreads."""
        node = self._nodes.get(number)
        if node is not None:
            node.debited_bytes += size_bytes

    def space(self) -> tuple[int, int]:
        """What users can store in all and still, in bytes, after replication, on nodes that are there.

        A suspect node keeps its share, so that the figures do not jump with every late heartbeat; a
        read-only one has no room beside what it holds. Nodes on one file system share its free space.
        """
        present = [node for node in self._nodes.values() if node.keeps]
        free = shared_free_bytes(present)
        total = [node.used_bytes + room for node, room in zip(present, free, strict=True)]
        return storable_bytes(total, self.replicas), storable_bytes(free, self.replicas)

    def low_space(self) -> bool:
        """Whether so little is left that clients must not acknowledge data they have not stored.

        As long as a node has not been heard since the start, what it has is not known.
        """
        unknown = any(node.alive and not node.measured for node in self._nodes.values())
        return not unknown and self.space()[1] < limits.LOW_SPACE_BYTES

    def cluster_map(self) -> common_pb2.ClusterMap:
        """All nodes now, with the version that updates continue from."""
        return common_pb2.ClusterMap(
            version=self._ring.version, nodes=[node.info() for node in self._nodes.values()]
        )

    @property
    def version(self) -> int:
        """The number of the newest membership change."""
        return self._ring.version

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every change, in order, at once; returns what ends it. It must not raise."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # ------------------------------------------------------------------ inside

    def _new_node(
        self, record: common_pb2.NodeInfo, state: common_pb2.NodeState.ValueType, now: float
    ) -> Node:
        return Node(
            number=record.node,
            uuid=record.uuid,
            address=record.address,
            unix_socket=record.unix_socket,
            host_id=record.host_id,
            rack=record.rack,
            history=StoreHistory(self._settings.garbage_grace_s),
            last_heard_s=now,
            draining=record.state == DRAINING,
            failing=record.failing,
            trouble=record.trouble,
            state=state,
        )

    def _known(self, number: int) -> Node:
        node = self._nodes.get(number)
        if node is None:
            raise CairnError(common_pb2.ERROR_CODE_NODE_UNKNOWN, f"there is no datanode {number}")
        return node

    def _hear(self, node: Node, now: float) -> None:
        node.last_heard_s = now
        node.last_seen_ms = self._wall_ms()

    def _news(self, seen_version: int) -> nodes_pb2.HeartbeatReply:
        next_ms = int(self._settings.heartbeat_s * 1000)
        updates = self._ring.updates_since(seen_version)
        if updates is None:
            return nodes_pb2.HeartbeatReply(
                requires_full_resync=True, cluster_map=self.cluster_map(), next_heartbeat_ms=next_ms
            )
        return nodes_pb2.HeartbeatReply(updates=updates, next_heartbeat_ms=next_ms)

    def _enter(self, node: Node, state: common_pb2.NodeState.ValueType) -> None:
        if node.state == state:
            return
        before, node.state = node.state, state
        report = log.warning if state == DEAD else log.info
        report("datanode changed state", node=node.number, before=_STATE_NAME[before], now=_STATE_NAME[state])
        self._changed(node)

    def _changed(self, node: Node) -> None:
        self._publish(self._ring.append(node.info()))

    def _publish(self, update: common_pb2.NodeUpdate) -> None:
        for listener in list(self._listeners):
            listener(update)
