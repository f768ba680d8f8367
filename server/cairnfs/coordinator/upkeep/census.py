"""Judges one chunk: how many replicas it has, should have, and which of them lie badly or are too many."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.node import HEALTHY, Node
from cairnfs.coordinator.records import ChunkRecord


@dataclass(frozen=True, slots=True)
class Verdict:
    """`kept` replicas are on nodes that keep theirs for good; `readable` ones on any that is alive."""

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

    Wanted is the count asked for, but never more than there are nodes to keep replicas: what cannot be
    repaired now is no fault, and is found again when a node comes.
    """
    return Verdict(
        kept=tuple(number for number in record.nodes if manager.keeps_replicas(number)),
        readable=tuple(number for number in record.nodes if manager.is_alive(number)),
        wanted=manager.wanted_replicas(record.wish),
    )


def surplus_holders(manager: NodeManager, record: ChunkRecord) -> list[int]:
    """Which replicas to give up: none while a holder is not healthy, else those that protect least.

    First those that share a rack or host with another replica, then those on the fullest nodes.
    """
    holders = [node for number in record.nodes if (node := manager.get(number)) is not None]
    if len(holders) < len(record.nodes) or any(node.state != HEALTHY for node in holders):
        return []
    given_up: list[int] = []
    while len(holders) > record.wish.count(manager.replicas):
        victim = worst_placed(holders)
        holders.remove(victim)
        given_up.append(victim.number)
    return given_up


def worst_placed(holders: Sequence[Node]) -> Node:
    """The node whose replica protects least."""
    return max(holders, key=lambda n: (n.failing, _shares(n, holders), n.slow, -n.free_bytes, n.number))


def _shares(node: Node, holders: Sequence[Node]) -> int:
    others = [other for other in holders if other is not node]
    same_host = any(other.host_id == node.host_id for other in others)
    return 2 * same_host + any(other.rack == node.rack for other in others)


def apartness(manager: NodeManager, numbers: Iterable[int]) -> tuple[int, int]:
    """How well replicas on these nodes are kept apart: in how many racks, on how many hosts they are."""
    nodes = [node for number in numbers if (node := manager.get(number)) is not None and node.alive]
    return len({node.rack for node in nodes}), len({node.host_id for node in nodes})


def crowded_holder(manager: NodeManager, record: ChunkRecord, roomy_racks: int) -> int | None:
    """A node whose replica should move to a rack that has none; None when all is well.

    `roomy_racks` is how many racks have nodes that take chunks. Only chunks of which every replica is well
    otherwise are judged: repair comes first.
    """
    holders = [node for number in record.nodes if (node := manager.get(number)) is not None]
    racks = len({node.rack for node in holders})
    if racks >= min(len(holders), roomy_racks) or any(node.state != HEALTHY for node in holders):
        return None
    return worst_placed(holders).number
