"""How far the draining of datanodes has got, from one walk over all chunks to the next."""

from dataclasses import dataclass

from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.upkeep.tally import Tally
from cairnfs.rpc.v1 import nodes_pb2


@dataclass(slots=True)
class _Drain:
    chunks: int
    bytes: int
    chunks_left: int
    bytes_left: int
    at_s: float
    bytes_per_s: float = 0.0


class Drains:
    """Progress of every draining node; `now` is monotonic seconds."""

    def __init__(self, manager: NodeManager) -> None:
        self._manager = manager
        self._drains: dict[int, _Drain] = {}

    def counted(self, tally: Tally, now: float) -> None:
        """A walk ended: take over what it found."""
        draining = {node.number for node in self._manager if node.draining}
        for number in set(self._drains) - draining:
            del self._drains[number]
        for number in draining & tally.draining:
            chunks, size = tally.left_chunks[number], tally.left_bytes[number]
            drain = self._drains.get(number)
            if drain is None:
                held = tally.held_chunks[number], tally.held_bytes[number]
                self._drains[number] = _Drain(*held, chunks, size, now)
                continue
            drain.bytes_per_s = max(0.0, (drain.bytes_left - size) / max(now - drain.at_s, 0.001))
            drain.chunks_left, drain.bytes_left, drain.at_s = chunks, size, now

    def report(self) -> list[nodes_pb2.DrainStatus]:
        """For people; a node that was not counted yet says so."""
        return [self._status(node.number) for node in self._manager if node.draining]

    def _status(self, number: int) -> nodes_pb2.DrainStatus:
        drain = self._drains.get(number)
        if drain is None:
            return nodes_pb2.DrainStatus(node=number)
        return nodes_pb2.DrainStatus(
            node=number,
            chunks=max(drain.chunks, drain.chunks_left),
            bytes=max(drain.bytes, drain.bytes_left),
            chunks_left=drain.chunks_left,
            bytes_left=drain.bytes_left,
            bytes_per_s=int(drain.bytes_per_s),
            counted=True,
        )
