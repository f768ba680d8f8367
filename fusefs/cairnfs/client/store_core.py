"""The transfers of one StoreChunk stream as a state machine: what to send next, and what acks mean.

docs/internals/replication.md explains credit. `now` is in seconds of one clock that never goes backwards.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from cairnfs.base import limits
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.rpc.v1 import chunks_pb2, common_pb2


@dataclass(slots=True, eq=False)
class StoreTransfer:
    """One chunk on its way; `waiter` belongs to the caller."""

    number: int
    data: memoryview
    header: chunks_pb2.ChunkHeader
    waiter: Any
    progress_s: float
    sent: int = 0
    received: int = 0

    @property
    def all_sent(self) -> bool:
        """Whether only the answer is missing."""
        return self.sent == len(self.data)


@dataclass(slots=True)
class StoreCore:
    """Interleaves transfers frame by frame and never has more under way than the datanode allows."""

    credit: int = limits.FRAME_MAX_BYTES  # before the datanode has said anything, one frame
    progress_s: float = float("-inf")
    _under_way: int = 0
    _last_number: int = 0
    _transfers: dict[int, StoreTransfer] = field(default_factory=dict[int, StoreTransfer])
    _sending: deque[StoreTransfer] = field(default_factory=deque[StoreTransfer])
    _cancelled: deque[int] = field(default_factory=deque[int])

    @property
    def under_way(self) -> int:
        """Bytes sent and not yet received by the datanode."""
        return self._under_way

    @property
    def transfers(self) -> list[StoreTransfer]:
        """Every transfer without an outcome."""
        return list(self._transfers.values())

    def begin(self, data: bytes, header: chunks_pb2.ChunkHeader, waiter: Any, now: float) -> StoreTransfer:
        """Queue a chunk (1 to CHUNK_MAX_BYTES)."""
        self._last_number += 1
        transfer = StoreTransfer(self._last_number, memoryview(data), header, waiter, now)
        if not self._transfers:
            self.progress_s = now
        self._transfers[transfer.number] = transfer
        self._sending.append(transfer)
        return transfer

    def abandon(self, transfer: StoreTransfer) -> None:
        """Nobody waits any more: forget it, and tell the datanode if it has heard of it."""
        if self._transfers.get(transfer.number) is not transfer:
            return
        self._forget(transfer)
        if transfer.sent > 0:
            self._cancelled.append(transfer.number)

    def next_frame(self) -> ChunkFrame | None:
        """The frame to send now, or None until more credit or another transfer comes."""
        if self._cancelled:
            return ChunkFrame(self._cancelled.popleft(), error=common_pb2.ERROR_CODE_INTERRUPTED)
        if not self._sending:
            return None
        transfer = self._sending[0]
        room = min(self.credit, limits.STORE_WINDOW_BYTES) - self._under_way
        wanted = min(len(transfer.data) - transfer.sent, limits.FRAME_MAX_BYTES)
        # A piece smaller than wanted is worth its overhead only when nothing else keeps acks coming.
        size = wanted if room >= wanted else room if self._under_way == 0 else 0
        if size <= 0:
            return None
        start, end = transfer.sent, transfer.sent + size
        transfer.sent = end
        self._under_way += size
        self._sending.rotate(-1)
        if transfer.all_sent:
            self._sending.remove(transfer)
        return ChunkFrame(
            transfer=transfer.number,
            offset=start,
            data=transfer.data[start:end],
            is_final=transfer.all_sent,
            header=transfer.header if start == 0 else None,
        )

    def acknowledge(self, ack: chunks_pb2.ChunkDataAck, now: float) -> StoreTransfer | None:
        """Apply an ack; the transfer it finishes, or None."""
        self.credit = ack.ready_for_next
        self.progress_s = now
        transfer = self._transfers.get(ack.transfer)
        if transfer is None:
            return None
        received = min(max(ack.bytes_received, transfer.received), transfer.sent)
        self._under_way -= received - transfer.received
        transfer.received = received
        transfer.progress_s = now
        if not ack.stored and ack.error == common_pb2.ERROR_CODE_OK:
            return None
        self._forget(transfer)
        return transfer

    def expire(self, now: float) -> list[StoreTransfer]:
        """Transfers sent in full whose answer did not come in time; they are forgotten."""
        late = [
            transfer
            for transfer in self._transfers.values()
            if transfer.all_sent and now - transfer.progress_s >= limits.TRANSFER_PROGRESS_S
        ]
        for transfer in late:
            self._forget(transfer)
        return late

    def stuck(self, now: float) -> bool:
        """Whether the whole stream has made no progress although there is something to do."""
        return bool(self._transfers) and now - self.progress_s >= limits.TRANSFER_PROGRESS_S

    def _forget(self, transfer: StoreTransfer) -> None:
        """Its frames that are still under way are dropped at the other end, so they count as received."""
        self._under_way -= transfer.sent - transfer.received
        del self._transfers[transfer.number]
        if not transfer.all_sent:
            self._sending.remove(transfer)
