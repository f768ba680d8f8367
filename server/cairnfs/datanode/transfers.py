"""One chunk on its way to this node and from here to replicas: a state machine without I/O or clock.

The same machine serves the primary (StoreChunk) and a replica (ChunkDataStream, which has no replicas of
its own). Its inputs are frames, and news from the disk and from replicas; its outputs are effects, to be
performed in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cairnfs.base import limits
from cairnfs.base.errors import CairnError, ErrorCode
from cairnfs.bulk.codec import Buffer, ChunkFrame
from cairnfs.datanode.store.checked import check_name
from cairnfs.datanode.store.checksums import BlockChecksums
from cairnfs.rpc.v1 import common_pb2 as pb
from cairnfs.rpc.v1.chunks_pb2 import ChunkDataAck, ChunkHeader


@dataclass(frozen=True, slots=True)
class Write:
    """Append these bytes to the chunk on the disk; report `on_written`."""

    data: Buffer


@dataclass(frozen=True, slots=True)
class Finish:
    """Make the chunk durable; report `on_stored`."""

    block_checksums: Sequence[int]


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget what was written."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Pass a frame on to a replica; report what it answers."""

    node: int
    frame: ChunkFrame


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell a replica to forget the transfer, and listen to it no more."""

    node: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Answer the sender. After a final answer the transfer is over for it."""

    ack: ChunkDataAck
    final: bool


Effect = Write | Finish | Discard | Forward | GiveUp | Acknowledge


@dataclass(slots=True)
class _Replica:
    received: int = 0
    stored: bool = False
    failed: bool = False

    @property
    def pending(self) -> bool:
        return not (self.stored or self.failed)


class Transfer:
    """Receives one chunk. `ended` once the sender has its final answer or is gone."""

    def __init__(self, number: int, header: ChunkHeader, own_node: int, window_bytes: int) -> None:
        """Raises CairnError INVALID for a header that no chunk can have."""
        check_name(header.chunk_id, header.length)
        replicas = list(header.replicas)
        wanted = header.wanted_replicas or 1 + len(replicas)
        if len(set(replicas)) != len(replicas) or own_node in replicas or len(replicas) > limits.REPLICAS_MAX:
            raise CairnError(pb.ERROR_CODE_INVALID, f"no list of replicas: {replicas}")
        if wanted > 1 + len(replicas):
            raise CairnError(pb.ERROR_CODE_INVALID, f"{wanted} copies on {1 + len(replicas)} nodes")
        self.chunk_id = header.chunk_id
        self.length = header.length
        self.keep_in_memory = header.reader in (0, own_node)
        self.received = 0
        self.ended = False
        self._number = number
        self._own_node = own_node
        self._window_bytes = window_bytes
        self._wanted = wanted
        self._checksums = BlockChecksums()
        self._replicas = {node: _Replica() for node in replicas}
        self._written = 0
        self._acknowledged = 0
        self._stored_here = False
        self._failures: list[str] = []

    @property
    def complete(self) -> bool:
        """Every byte has arrived."""
        return self.received == self.length

    @property
    def acknowledged(self) -> int:
        """Bytes for which the sender got its credit back."""
        return self.length if self.ended else self._acknowledged

    def on_already_here(self) -> list[Effect]:
        """The chunk is on this disk: write nothing, and only serve the replicas."""
        self._stored_here = True
        self._written = self.length
        return self._settle()

    def on_frame(self, frame: ChunkFrame) -> list[Effect]:
        """The next frame; its bytes are checked before they go anywhere."""
        if self.ended:
            return []
        if frame.error:
            return self.on_sender_gone()
        try:
            self._check(frame)
        except CairnError as error:
            return self._fail(error.code, error.detail)
        self.received += len(frame.data)
        effects: list[Effect] = []
        if not self._stored_here:
            effects.append(Write(frame.data))
        effects += [Forward(node, frame) for node, replica in self._replicas.items() if replica.pending]
        if self.complete and not self._stored_here:
            effects.append(Finish(self._checksums.blocks))
        return effects + self._credit()

    def _check(self, frame: ChunkFrame) -> None:
        size = len(frame.data)
        if frame.offset != self.received:
            raise CairnError(pb.ERROR_CODE_INVALID, f"offset {frame.offset} after {self.received} bytes")
        if self.length <= limits.PACK_CHUNK_MAX_BYTES and size != self.length:
            raise CairnError(pb.ERROR_CODE_INVALID, f"a chunk of {self.length} bytes travels in one frame")
        if size == 0 or self.received + size > self.length:
            raise CairnError(pb.ERROR_CODE_INVALID, f"{size} bytes at {frame.offset} of {self.length}")
        if frame.is_final != (self.received + size == self.length):
            raise CairnError(
                pb.ERROR_CODE_INVALID, f"is_final is {frame.is_final} at {frame.offset} + {size}"
            )
        if self._checksums.add(frame.data) != frame.crc32c:
            raise CairnError(pb.ERROR_CODE_CORRUPT, f"frame at {frame.offset}: wrong checksum")

    def on_written(self, size_bytes: int) -> list[Effect]:
        """So many more bytes have left memory for the disk."""
        self._written += size_bytes
        return self._credit()

    def on_stored(self) -> list[Effect]:
        """The chunk is durable and visible here."""
        self._stored_here = True
        self._written = self.length
        return self._settle()

    def on_disk_failed(self, code: "ErrorCode.ValueType", detail: str) -> list[Effect]:
        """The chunk could not be stored here."""
        return [] if self.ended else self._fail(code, detail)

    def on_replica_ack(self, node: int, ack: ChunkDataAck) -> list[Effect]:
        """A replica received bytes, stored the chunk, or refused it."""
        replica = self._replicas[node]
        if not replica.pending:
            return []
        replica.received = max(replica.received, ack.bytes_received)
        replica.stored = ack.stored
        if ack.error:
            return self.on_replica_failed(node, ack.detail or ErrorCode.Name(ack.error))
        return self._settle() if ack.stored else self._credit()

    def on_replica_failed(self, node: int, detail: str) -> list[Effect]:
        """A replica cannot be reached, or makes no progress: go on without it."""
        replica = self._replicas[node]
        if not replica.pending:
            return []
        replica.failed = True
        self._failures.append(f"node {node}: {detail}")
        return self._credit() + self._settle()

    def on_sender_gone(self) -> list[Effect]:
        """The sender gave up or its stream broke. What has arrived whole is finished anyway."""
        if self.ended:
            return []
        self.ended = True
        if self.complete:
            return []
        return self._drop()

    def on_given_up(self, code: "ErrorCode.ValueType", detail: str) -> list[Effect]:
        """This node waits no longer for the rest; what has arrived whole is finished anyway."""
        return [] if self.ended or self.complete else self._fail(code, detail)

    def _credit(self) -> list[Effect]:
        """Acknowledge bytes that have left memory here and at every replica still in the transfer."""
        floor = min([self._written, *(r.received for r in self._replicas.values() if r.pending)])
        floor = min(floor, self.received)
        # The final answer of a chunk of one frame is near and says the same.
        lone_frame = self.length <= limits.FRAME_MAX_BYTES
        if self.ended or floor <= self._acknowledged or (lone_frame and floor == self.length):
            return []
        self._acknowledged = floor
        ack = ChunkDataAck(transfer=self._number, bytes_received=floor, ready_for_next=self._window_bytes)
        return [Acknowledge(ack, final=False)]

    def _settle(self) -> list[Effect]:
        """Give the final answer when it is known."""
        if self.ended or not self._stored_here:
            return []
        holders = self._holders()
        if len(holders) >= self._wanted:
            return [*self._unfinished(), self._final(ChunkDataAck(stored=True, nodes=holders))]
        if any(replica.pending for replica in self._replicas.values()):
            return []
        detail = f"{len(holders)} of {self._wanted} copies; " + "; ".join(self._failures)
        return [self._final(ChunkDataAck(error=pb.ERROR_CODE_UNAVAILABLE, detail=detail, nodes=holders))]

    def _holders(self) -> list[int]:
        here = [self._own_node] if self._stored_here else []
        return here + [node for node, replica in self._replicas.items() if replica.stored]

    def _unfinished(self) -> list[Effect]:
        """Enough nodes hold the chunk: others may finish only if they were sent all of it."""
        if self.complete:
            return []
        return [GiveUp(node) for node, replica in self._replicas.items() if replica.pending]

    def _fail(self, code: "ErrorCode.ValueType", detail: str) -> list[Effect]:
        ack = ChunkDataAck(error=code, detail=detail, nodes=self._holders())
        return [*self._drop(), self._final(ack)]

    def _drop(self) -> list[Effect]:
        gone: list[Effect] = [] if self._stored_here else [Discard()]
        return gone + [GiveUp(node) for node, replica in self._replicas.items() if replica.pending]

    def _final(self, ack: ChunkDataAck) -> Acknowledge:
        self.ended = True
        ack.transfer = self._number
        ack.bytes_received = self.received
        ack.ready_for_next = self._window_bytes
        return Acknowledge(ack, final=True)
