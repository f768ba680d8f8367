"""Makes datanodes about equally full, after new ones joined for example.

A round begins when a walk over all chunks has shown a difference, and goes over all chunks once more: a
replica moves from a fuller node to an emptier one unless the two change places by that. It ends when the
difference is small, so it comes to rest; repair goes first.
"""

from typing import Final

from cairnfs.base import limits
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.node import HEALTHY, Node
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.coordinator.upkeep.census import apartness, judge
from cairnfs.coordinator.upkeep.moves import Mover
from cairnfs.coordinator.upkeep.tally import Tally
from cairnfs.engine.interface import ReadTransaction

_ENOUGH: Final = 0.5  # of the threshold: a round goes on until the difference is as small as that


class Rebalancer:
    """One round at a time; `percent` is the difference in use that is left alone."""

    def __init__(self, manager: NodeManager, mover: Mover, percent: int, *, enabled: bool) -> None:
        self._manager = manager
        self._mover = mover
        self.threshold = percent / 100
        self.enabled = enabled
        self.running = False
        self._judged: Tally | None = None
        self._held: dict[int, int] = {}
        self._after = b""
        self._next_s = 0.0

    def spread(self, held_bytes: dict[int, int]) -> float:
        """Use of the fullest node less that of the emptiest, each a share of what the node could hold."""
        uses = [self._use(node, held_bytes) for node in self._players()]
        return max(uses, default=0.0) - min(uses, default=0.0)

    def step(self, txn: ReadTransaction, tally: Tally, now: float, *, idle: bool) -> bool:
        """Move a little; whether to go on at once. `idle`: nothing is to be repaired."""
        if not self.enabled or not idle:
            self.running = False
            return False
        if not self.running and not self._begin(tally, now):
            return False
        found = chunk_table.scan_chunks(txn, self._after, limits.SCAN_STEP_CHUNKS)
        for chunk_id, record in found:
            if not self._mover.may_start(now):
                return False
            self._after = chunk_id
            self._consider(chunk_id, record, now)
        if len(found) < limits.SCAN_STEP_CHUNKS or self.spread(self._held) < self.threshold * _ENOUGH:
            self.running = False
            self._next_s = now + limits.REBALANCE_PAUSE_S
        return self.running

    def _begin(self, tally: Tally, now: float) -> bool:
        """Begin a round with the figures of a walk that no round has used, if the nodes differ."""
        if now < self._next_s or tally is self._judged or self._mover.running:
            return False
        self._judged = tally
        self._held = dict(tally.held_bytes)
        self.running = self.spread(self._held) > self.threshold
        self._after = b""
        return self.running

    def _players(self) -> list[Node]:
        return [node for node in self._manager if node.state == HEALTHY and node.keeps and node.measured]

    def _use(self, node: Node, held_bytes: dict[int, int], more_bytes: int = 0) -> float:
        size_bytes = node.used_bytes + node.available_bytes
        return (held_bytes.get(node.number, 0) + more_bytes) / max(1, size_bytes)

    def _consider(self, chunk_id: bytes, record: ChunkRecord, now: float) -> None:
        if record.state != ChunkState.LIVE or record.references == 0:
            return
        verdict = judge(self._manager, record)
        if verdict.missing or verdict.surplus or len(verdict.kept) != len(record.nodes):
            return
        by_use = sorted(self._players(), key=lambda node: self._use(node, self._held))
        holders = [node for node in reversed(by_use) if node.number in record.nodes]
        takers = [
            node for node in by_use if node.usable and not node.slow and node.number not in record.nodes
        ]
        if len(holders) < len(record.nodes):
            return
        for giver in holders:
            for taker in takers:
                if not self._is_worth_it(giver, taker, record.length):
                    break  # nor is it with one that is fuller
                if not self._brings_together(record, giver, taker):
                    self._move(chunk_id, record, giver, taker, now)
                    return

    def _is_worth_it(self, giver: Node, taker: Node, length: int) -> bool:
        difference = self._use(giver, self._held) - self._use(taker, self._held)
        passed = self._use(taker, self._held, length) > self._use(giver, self._held, -length)
        return difference >= self.threshold * _ENOUGH and not passed and taker.free_bytes >= length

    def _brings_together(self, record: ChunkRecord, giver: Node, taker: Node) -> bool:
        after = [number for number in record.nodes if number != giver.number] + [taker.number]
        return apartness(self._manager, after) < apartness(self._manager, record.nodes)

    def _move(self, chunk_id: bytes, record: ChunkRecord, giver: Node, taker: Node, now: float) -> None:
        if self._mover.start(chunk_id, record, giver.number, taker.number, now):
            self._held[giver.number] = self._held.get(giver.number, 0) - record.length
            self._held[taker.number] = self._held.get(taker.number, 0) + record.length
