"""What operators do to datanodes: drain them, take that back, remove them when nothing depends on them."""

import asyncio
from collections.abc import Callable
from typing import Final

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.membership import nodes_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.node import Node
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.coordinator.upkeep.store import Store
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

_STEP_PAUSE_S: Final = 0.002  # clients go first


class Administration:
    """Changes that outlive the coordinator: durable first, then in the membership."""

    def __init__(self, store: Store, manager: NodeManager, trusted: Callable[[int], None]) -> None:
        """`trusted(node)` is called when an operator says that a node is no longer failing."""
        self._store = store
        self._manager = manager
        self._trusted = trusted

    async def change(self, request: nodes_pb2.ChangeNodeRequest) -> nodes_pb2.ChangeNodeReply:
        """Do what is asked; BUSY in the reply when chunks depend on a node to be removed.

        Raises CairnError NODE_UNKNOWN, or INVALID for a change that makes no sense; EngineError.
        """
        node = self._manager.get(request.node)
        if node is None:
            raise CairnError(common_pb2.ERROR_CODE_NODE_UNKNOWN, f"there is no datanode {request.node}")
        if request.change == nodes_pb2.NODE_CHANGE_REMOVE:
            return await self._remove(node)
        if request.change == nodes_pb2.NODE_CHANGE_TRUST:
            await self._store.commit(nodes_table.failing(node.number, ""))
            self._manager.set_failing(node.number, "")
            self._trusted(node.number)
            return nodes_pb2.ChangeNodeReply()
        if request.change not in (nodes_pb2.NODE_CHANGE_DRAIN, nodes_pb2.NODE_CHANGE_UNDRAIN):
            raise CairnError(common_pb2.ERROR_CODE_INVALID, f"unknown change {request.change}")
        wanted = request.change == nodes_pb2.NODE_CHANGE_DRAIN
        await self._store.commit(nodes_table.draining(node.number, wanted))
        self._manager.set_draining(node.number, wanted)
        return nodes_pb2.ChangeNodeReply()

    async def _remove(self, node: Node) -> nodes_pb2.ChangeNodeReply:
        if node.alive and not node.draining:
            raise CairnError(
                common_pb2.ERROR_CODE_INVALID,
                f"datanode {node.number} is in use: drain or stop it first",
            )
        depending = await self._depending_chunks(node.number)
        if depending:
            return nodes_pb2.ChangeNodeReply(
                error=common_pb2.ERROR_CODE_BUSY,
                detail=f"{depending} chunks do not have all their replicas elsewhere yet",
                depending_chunks=depending,
            )
        await self._store.commit(nodes_table.removal(node.number))
        self._manager.remove(node.number)
        return nodes_pb2.ChangeNodeReply()

    async def _depending_chunks(self, node: int) -> int:
        after, depending = b"", 0

        def step(txn: ReadTransaction) -> list[tuple[bytes, ChunkRecord]]:
            return chunk_table.scan_chunks(txn, after, limits.SCAN_STEP_CHUNKS)

        while found := self._store.read(step):
            depending += sum(1 for _id, record in found if self._depends(record, node))
            after = found[-1][0]
            await asyncio.sleep(_STEP_PAUSE_S)
        return depending

    def _depends(self, record: ChunkRecord, node: int) -> bool:
        if record.state != ChunkState.LIVE or record.references == 0 or node not in record.nodes:
            return False
        others = sum(1 for number in record.nodes if number != node and self._manager.keeps_replicas(number))
        return others < self._manager.wanted_replicas(record.wish)
