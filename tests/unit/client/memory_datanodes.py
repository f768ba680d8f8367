"""Datanodes in memory, and a session that plans over them."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from cairnfs.base import limits
from cairnfs.base.checksums import chunk_id
from cairnfs.base.errors import CairnError
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.client.transport import RetrievedFrame
from cairnfs.rpc.v1 import chunks_pb2, common_pb2, metadata_pb2 as pb
from tests.unit.client.memory import MemoryStream

StoreStream = MemoryStream[ChunkFrame, chunks_pb2.ChunkDataAck]
RetrieveStream = MemoryStream[chunks_pb2.RetrieveChunkRequest, RetrievedFrame]


@dataclass
class FakeDatanode:
    """Keeps chunks in a dict. It notices when a sender exceeds its credit."""

    number: int
    host_id: str = "elsewhere"
    state: "common_pb2.NodeState.ValueType" = common_pb2.NODE_STATE_HEALTHY
    credit: int = limits.STORE_WINDOW_BYTES
    reachable: bool = True
    stalled: bool = False  # takes everything and says nothing
    hold_acks: bool = False  # until `acknowledge`
    failing_replicas: frozenset[int] = frozenset()
    store_error: "common_pb2.ErrorCode.ValueType" = common_pb2.ERROR_CODE_OK
    chunks: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    corrupt: set[bytes] = field(default_factory=set[bytes])
    damaged_frames: bool = False
    frame_bytes: int = limits.FRAME_MAX_BYTES
    frames: list[ChunkFrame] = field(default_factory=list[ChunkFrame])
    most_under_way: int = 0
    asked: int = 0
    store_streams: list[StoreStream] = field(default_factory=list[StoreStream])
    retrieve_streams: list[RetrieveStream] = field(default_factory=list[RetrieveStream])
    _arriving: dict[int, bytearray] = field(default_factory=dict[int, bytearray])
    _headers: dict[int, chunks_pb2.ChunkHeader] = field(default_factory=dict[int, chunks_pb2.ChunkHeader])
    _unacknowledged: deque[ChunkFrame] = field(default_factory=deque[ChunkFrame])

    @property
    def info(self) -> common_pb2.NodeInfo:
        return common_pb2.NodeInfo(
            node=self.number, address=f"d:{self.number}", host_id=self.host_id, state=self.state
        )

    def kill(self) -> None:
        """The process dies: streams break, no new one can be opened."""
        self.reachable = False
        for store_stream in self.store_streams:
            store_stream.break_off("killed")
        for retrieve_stream in self.retrieve_streams:
            retrieve_stream.break_off("killed")

    # ------------------------------------------------------------ storing

    def open_store(self) -> StoreStream:
        stream = StoreStream(self._on_frame, reachable=self.reachable)
        self.store_streams.append(stream)
        return stream

    def _on_frame(self, _stream: StoreStream, frame: ChunkFrame) -> None:
        self.frames.append(frame)
        if frame.error:
            return
        if frame.header is not None:
            self._headers[frame.transfer] = frame.header
            self._arriving[frame.transfer] = bytearray()
        assert frame.offset == len(self._arriving[frame.transfer])
        self._arriving[frame.transfer] += frame.data
        self._unacknowledged.append(frame)
        under_way = sum(len(each.data) for each in self._unacknowledged)
        self.most_under_way = max(self.most_under_way, under_way)
        if not self.stalled and not self.hold_acks:
            self.acknowledge()

    def acknowledge(self) -> bool:
        """Answer the oldest unanswered frame; whether there was one."""
        if not self._unacknowledged:
            return False
        frame = self._unacknowledged.popleft()
        ack = chunks_pb2.ChunkDataAck(
            transfer=frame.transfer, bytes_received=frame.offset + len(frame.data), ready_for_next=self.credit
        )
        if frame.is_final:
            self._finish(ack, bytes(self._arriving.pop(frame.transfer)), self._headers.pop(frame.transfer))
        self.store_streams[-1].deliver(ack)
        return True

    def _finish(self, ack: chunks_pb2.ChunkDataAck, data: bytes, header: chunks_pb2.ChunkHeader) -> None:
        if self.store_error:
            ack.error = self.store_error
            return
        assert chunk_id(data) == header.chunk_id
        self.chunks[header.chunk_id] = data
        ack.nodes.append(self.number)
        ack.nodes.extend(number for number in header.replicas if number not in self.failing_replicas)
        if len(ack.nodes) >= header.wanted_replicas:
            ack.stored = True
        else:
            ack.error = common_pb2.ERROR_CODE_UNAVAILABLE

    # ------------------------------------------------------------ retrieving

    def open_retrieve(self) -> RetrieveStream:
        stream = RetrieveStream(self._on_request, reachable=self.reachable)
        self.retrieve_streams.append(stream)
        return stream

    def _on_request(self, stream: RetrieveStream, request: chunks_pb2.RetrieveChunkRequest) -> None:
        self.asked += 1
        if self.stalled:
            return
        data = self.chunks.get(request.chunk_id)
        if data is None:
            error = common_pb2.ERROR_CODE_NOT_FOUND
            stream.deliver(RetrievedFrame(request.transfer, 0, b"", is_final=True, error=error))
            return
        if request.chunk_id in self.corrupt:
            data = bytes(len(data))
        end = request.offset + request.length if request.length else len(data)
        for start in range(request.offset, end, self.frame_bytes):
            stop = min(start + self.frame_bytes, end)
            stream.deliver(
                RetrievedFrame(
                    request.transfer, start, data[start:stop], stop == end, intact=not self.damaged_frames
                )
            )


@dataclass
class MemoryChunkTransport:
    """Dials fake datanodes by number."""

    datanodes: dict[int, FakeDatanode]

    def open_store(self, node: common_pb2.NodeInfo) -> StoreStream:
        return self.datanodes[node.node].open_store()

    def open_retrieve(self, node: common_pb2.NodeInfo) -> RetrieveStream:
        return self.datanodes[node.node].open_retrieve()


@dataclass
class PlanningSession:
    """Answers `PlanWrite` from the fake datanodes, in order of their numbers, and keeps reports."""

    datanodes: dict[int, FakeDatanode]
    replicas: int = 2
    known: set[bytes] = field(default_factory=set[bytes])
    plans: list[pb.PlanWrite] = field(default_factory=list[pb.PlanWrite])
    reports: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])
    plan_errors: "deque[common_pb2.ErrorCode.ValueType]" = field(
        default_factory=deque["common_pb2.ErrorCode.ValueType"]
    )
    replan_errors: "deque[common_pb2.ErrorCode.ValueType]" = field(
        default_factory=deque["common_pb2.ErrorCode.ValueType"]
    )  # answers to plans that exclude nodes
    delay_s: float = 0.0
    trusted: bool = True

    async def call(self, op: Any, caller: pb.Caller | None = None, *, deadline_s: float | None = None) -> Any:
        if isinstance(op, pb.ReportReplica):
            self.reports.append((op.node, op.corrupt))
            return None
        assert isinstance(op, pb.PlanWrite)
        self.plans.append(op)
        if self.delay_s:
            await trio.sleep(self.delay_s)
        if op.exclude_nodes and self.replan_errors:
            raise CairnError(self.replan_errors.popleft(), "as the test wants it")
        if self.plan_errors:
            raise CairnError(self.plan_errors.popleft(), "as the test wants it")
        nodes = [number for number in sorted(self.datanodes) if number not in op.exclude_nodes]
        if not nodes:
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "no datanode is left")
        reply = pb.PlanWriteReply()
        for spec in op.chunks:
            if spec.chunk_id in self.known:
                reply.plans.add(chunk_id=spec.chunk_id, stored=True)
            else:
                reply.plans.add(chunk_id=spec.chunk_id, nodes=nodes[: self.replicas], ticket=b"t")
        return reply

    def recall_done(self, recall_id: int, still_open: Sequence[int], open_for_write: Sequence[int]) -> None:
        raise AssertionError("the chunk client acknowledges no recalls")

    def flush_done(self, number: int, error: CairnError | None) -> None:
        raise AssertionError("the chunk client saves nothing for others")

    def node(self, number: int) -> common_pb2.NodeInfo | None:
        datanode = self.datanodes.get(number)
        return None if datanode is None else datanode.info
