"""Judges one chunk: how many replicas it has, should have, and which of them to give up."""

from collections.abc import Sequence
from dataclasses import dataclass

from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.node import HEALTHY, Node
from cairnfs.coordinator.records import ChunkRecord


@dataclass(frozen=True, slots=True)
class Verdict:
    """`kept` replicas are on nodes that are alive and not draining; `readable` ones on any that is alive."""

    kept: tuple[int, ...]
    readable: tuple[int, ...]
    wanted: int

    @property
    def missing(self) -> int:
        """How many replicas are to be made."""
        return max(0, self.wanted - len(self.kept))

    @property
    def surplus(self) -> int:
        """How many kept replicas there are beyond those wanted."""
        return max(0, len(self.kept) - self.wanted)


def judge(manager: NodeManager, record: ChunkRecord) -> Verdict:
    """Compare a record with the membership as it is now.

    Wanted is the configured count, but never more than there are nodes to keep replicas: what cannot be
    repaired now is no fault, and is found again when a node comes.
    """
    return Verdict(
        kept=tuple(number for number in record.nodes if manager.keeps_replicas(number)),
        readable=tuple(number for number in record.nodes if manager.is_alive(number)),
        wanted=manager.wanted_replicas(),
    )


def surplus_holders(manager: NodeManager, record: ChunkRecord) -> list[int]:
    """Which replicas to give up: none while a holder is not healthy, else those that protect least.

    First those that share a rack or host with another replica, then those on the fullest nodes.
    """
    holders = [node for number in record.nodes if (node := manager.get(number)) is not None]
    if len(holders) < len(record.nodes) or any(node.state != HEALTHY for node in holders):
        return []
    given_up: list[int] = []
    while len(holders) > manager.replicas:
        victim = max(holders, key=lambda node: (_shares(node, holders), -node.free_bytes, node.number))
        holders.remove(victim)
        given_up.append(victim.number)
    return given_up


def _shares(node: Node, holders: Sequence[Node]) -> int:
    others = [other for other in holders if other is not node]
    same_host = any(other.host_id == node.host_id for other in others)
    return 2 * same_host + any(other.rack == node.rack for other in others)
