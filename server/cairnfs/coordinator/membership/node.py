"""One datanode as the coordinator sees it: identity, state, disk, and its store counter over time."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from cairnfs.base import limits
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

JOINING: Final = common_pb2.NODE_STATE_JOINING
HEALTHY: Final = common_pb2.NODE_STATE_HEALTHY
SUSPECT: Final = common_pb2.NODE_STATE_SUSPECT
DEAD: Final = common_pb2.NODE_STATE_DEAD
DRAINING: Final = common_pb2.NODE_STATE_DRAINING

_MARKS_KEPT: Final = 64


@dataclass(slots=True)
class StoreHistory:
    """Samples of a node's store counter, thinned so that a bounded number reaches back `span_s` seconds.

    Deletion uses the newest sample that is at least a grace time old: whatever the node was asked to
    store since then may be on its way into a commit, and is kept.
    """

    span_s: float
    boot: str = ""
    _marks: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def note(self, boot: str, seq: int, now: float) -> None:
        """Remember a heartbeat; another `boot` starts anew, because its counter did."""
        if boot != self.boot:
            self.boot = boot
            self._marks.clear()
        if self._marks and now - self._marks[-1][0] < self.span_s / _MARKS_KEPT:
            return
        self._marks.append((now, seq))
        while len(self._marks) > 1 and self._marks[1][0] <= now - self.span_s:
            self._marks.popleft()

    def as_of(self, now: float) -> int | None:
        """The counter as it was `span_s` ago or earlier; None when this boot is not known for so long."""
        if self._marks and self._marks[0][0] <= now - self.span_s:
            known = [seq for at, seq in self._marks if at <= now - self.span_s]
            return known[-1]
        return None


@dataclass(slots=True)
class Node:
    """One datanode; `last_heard_s` is monotonic, `last_seen_ms` wall time (0: not since the start)."""

    number: int
    uuid: str
    address: str
    unix_socket: str
    host_id: str
    rack: str
    history: StoreHistory
    last_heard_s: float
    draining: bool = False
    state: common_pb2.NodeState.ValueType = JOINING
    capacity_bytes: int = 0
    used_bytes: int = 0
    available_bytes: int = 0
    chunks: int = 0
    read_only: bool = False
    measured: bool = False  # disk figures arrived since the coordinator's start
    filesystem: str = ""  # nodes with the same one share its free space
    last_seen_ms: int = 0
    debited_bytes: int = 0
    address_version: int = 0  # of the membership change that told where it is
    seen_version: int = 0  # of the membership, as far as it is known to have been told
    slow: bool = False  # see `SpeedJudge`
    failing: bool = False  # see `FaultBook`; durable
    trouble: str = ""  # why, for people
    disks: list[nodes_pb2.DiskInfo] = field(default_factory=list[nodes_pb2.DiskInfo])
    scrub: nodes_pb2.ScrubFigures = field(default_factory=nodes_pb2.ScrubFigures)
    store_us: int = 0  # what it needs to make something durable, as it says itself
    peers_us: dict[int, int] = field(default_factory=dict[int, int])  # and what it saw others need

    @property
    def alive(self) -> bool:
        """Whether its replicas count: everything but dead."""
        return self.state != DEAD

    @property
    def usable(self) -> bool:
        """Whether it may take new chunks."""
        return self.state == HEALTHY and not self.read_only and not self.failing

    @property
    def keeps(self) -> bool:
        """Whether its replicas count for good: it is there, and not to be emptied."""
        return self.alive and not self.draining and not self.failing

    @property
    def answers(self) -> bool:
        """Whether it was heard lately."""
        return self.state in (HEALTHY, DRAINING)

    @property
    def free_bytes(self) -> int:
        """What it reported as available, less what was planned onto it since."""
        return max(0, self.available_bytes - self.debited_bytes)

    def knows(self, other: "Node") -> bool:
        """Whether it has been told where `other` is."""
        return other is self or self.seen_version >= other.address_version

    def identify(self, info: common_pb2.NodeInfo) -> None:
        """Take over what a registration says about where and what the node is."""
        self.address, self.unix_socket = info.address, info.unix_socket
        self.host_id, self.rack = info.host_id, info.rack

    def measure(self, disk: nodes_pb2.DiskUse) -> None:
        """Take over disk figures; what was debited is in them or failed."""
        self.capacity_bytes, self.used_bytes = disk.capacity_bytes, disk.used_bytes
        self.available_bytes, self.chunks = disk.available_bytes, disk.chunks
        self.read_only, self.filesystem = disk.read_only, disk.filesystem
        self.debited_bytes = 0
        self.measured = True

    def observe(self, request: nodes_pb2.HeartbeatRequest) -> bool:
        """Take over how its disks and its peers fare; whether the state of a disk changed."""
        before = [(disk.uuid, disk.state) for disk in self.disks]
        self.disks = list(request.disks)[: limits.DISKS_MAX]
        for disk in self.disks:
            disk.detail = disk.detail[: limits.DISKS_TEXT_MAX_BYTES]
            disk.path = disk.path[: limits.DISKS_TEXT_MAX_BYTES]
        self.scrub = request.scrub
        self.store_us = request.store_us
        self.peers_us = {peer.node: peer.store_us for peer in request.peers}
        return before != [(disk.uuid, disk.state) for disk in self.disks]

    def info(self) -> common_pb2.NodeInfo:
        """As told to datanodes, clients and people."""
        return common_pb2.NodeInfo(
            node=self.number,
            uuid=self.uuid,
            address=self.address,
            unix_socket=self.unix_socket,
            host_id=self.host_id,
            rack=self.rack,
            state=self.state,
            capacity_bytes=self.capacity_bytes,
            used_bytes=self.used_bytes,
            available_bytes=self.available_bytes,
            chunks=self.chunks,
            last_seen_ms=self.last_seen_ms,
            read_only=self.read_only,
            slow=self.slow,
            failing=self.failing,
            trouble=self.trouble,
        )
