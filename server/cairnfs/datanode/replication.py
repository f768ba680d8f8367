"""The sending side of one replication stream: a state machine without I/O or clock.

Frames of several transfers share the credit that the peer gives. A frame is sent when it fits into it, and
kept otherwise. A peer that acknowledges nothing for REPLICA_PROGRESS_S while it owes an answer fails all its
transfers; a frame that no longer fits into PEER_QUEUE_MAX_BYTES fails its own.
"""

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Final

from cairnfs.base import limits
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.rpc.v1 import common_pb2 as pb
from cairnfs.rpc.v1.chunks_pb2 import ChunkDataAck, ChunkHeader

STORE_TIMES_KEPT: Final = 32
STORE_TIMES_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Send:
    """Write this frame to the stream."""

    frame: ChunkFrame


@dataclass(frozen=True, slots=True)
class Answered:
    """The replica acknowledged something of the transfer `key`."""

    key: object
    ack: ChunkDataAck


@dataclass(frozen=True, slots=True)
class Failed:
    """The transfer `key` is over without the replica holding the chunk."""

    key: object
    detail: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Close the stream; all transfers have failed."""

    detail: str


Effect = Send | Answered | Failed | Reset


@dataclass(slots=True)
class _Outgoing:
    key: object
    number: int
    header: ChunkHeader
    begun_s: float
    sent: int = 0
    received: int = 0

    @property
    def owed(self) -> bool:
        """The peer has something to acknowledge: bytes, or that all of them are stored."""
        return self.sent > self.received or self.sent == self.header.length

    @property
    def under_way(self) -> int:
        return self.sent - self.received


class ReplicationSender:
    """All transfers to one peer."""

    def __init__(self) -> None:
        self._by_key: dict[object, _Outgoing] = {}
        self._by_number: dict[int, _Outgoing] = {}
        self._queue: deque[tuple[_Outgoing, ChunkFrame]] = deque()
        self._queued_bytes = 0
        self._under_way_bytes = 0
        self._credit_bytes = 0
        self._session = ""
        self._numbers = 0
        self._progress_s = 0.0
        self._store_times: deque[tuple[float, float]] = deque(maxlen=STORE_TIMES_KEPT)

    def store_s(self, now: float) -> float:
        """Median time that the peer took for a small chunk in the last STORE_TIMES_S; 0: not known.

        What is older is forgotten: a slow peer gets no more chunks, and must not be slow for ever.
        """
        while self._store_times and self._store_times[0][0] <= now - STORE_TIMES_S:
            self._store_times.popleft()
        return median(seconds for _, seconds in self._store_times) if self._store_times else 0.0

    @property
    def idle(self) -> bool:
        """No transfer is open."""
        return not self._by_key

    @property
    def under_way_bytes(self) -> int:
        """Sent and not acknowledged."""
        return self._under_way_bytes

    @property
    def queued_bytes(self) -> int:
        """Kept because they do not fit into the credit."""
        return self._queued_bytes

    def begin(self, key: object, header: ChunkHeader, now: float) -> None:
        """Open the transfer `key` of the chunk that `header` describes."""
        if not self._owed():
            self._progress_s = now
        self._numbers += 1
        plain = ChunkHeader(
            chunk_id=header.chunk_id,
            length=header.length,
            ticket=header.ticket,
            wanted_replicas=1,
            reader=header.reader,
        )
        outgoing = _Outgoing(key, self._numbers, plain, now)
        self._by_key[key] = self._by_number[outgoing.number] = outgoing

    def push(self, key: object, frame: ChunkFrame, now: float) -> list[Effect]:
        """Send the next frame of a transfer, or keep it until there is credit."""
        outgoing = self._by_key.get(key)
        if outgoing is None:
            return []
        if self._queued_bytes + len(frame.data) > limits.PEER_QUEUE_MAX_BYTES:
            return [*self.cancel(key), Failed(key, "too much waits for this replica")]
        if not self._owed():
            self._progress_s = now
        self._queue.append((outgoing, frame))
        self._queued_bytes += len(frame.data)
        return self._pump()

    def cancel(self, key: object) -> list[Effect]:
        """End a transfer and tell the peer, if it has heard of it."""
        outgoing = self._by_key.get(key)
        if outgoing is None:
            return []
        known = outgoing.sent > 0
        self._forget(outgoing)
        effects = self._pump()
        if known:
            gone = ChunkFrame(
                outgoing.number, error=pb.ERROR_CODE_INTERRUPTED, detail="given up by the sender"
            )
            effects.insert(0, Send(gone))
        return effects

    def on_open(self, session: str, credit_bytes: int, now: float) -> list[Effect]:
        """The peer accepted the session; the stream is open."""
        self._session = session
        self._credit_bytes = credit_bytes
        self._progress_s = now
        return self._pump()

    def on_ack(self, ack: ChunkDataAck, now: float) -> list[Effect]:
        """The peer acknowledged something; numbers of transfers that are over are ignored."""
        self._progress_s = now
        self._credit_bytes = ack.ready_for_next
        outgoing = self._by_number.get(ack.transfer)
        if outgoing is None:
            return self._pump()
        received = min(max(ack.bytes_received, outgoing.received), outgoing.sent)
        self._under_way_bytes -= received - outgoing.received
        outgoing.received = received
        if ack.stored or ack.error:
            self._forget(outgoing)
        if ack.stored and outgoing.header.length <= limits.PACK_CHUNK_MAX_BYTES:
            # One frame: it does not wait for more bytes of the client.
            self._store_times.append((now, now - outgoing.begun_s))
        return [Answered(outgoing.key, ack), *self._pump()]

    def on_broken(self, detail: str) -> list[Effect]:
        """The stream ended, or could not be opened: every transfer has failed."""
        keys = list(self._by_key)
        self._by_key.clear()
        self._by_number.clear()
        self._queue.clear()
        self._queued_bytes = self._under_way_bytes = self._credit_bytes = 0
        self._session = ""
        return [Failed(key, detail) for key in keys]

    def on_tick(self, now: float) -> list[Effect]:
        """Call it a few times per REPLICA_PROGRESS_S."""
        if now - self._progress_s < limits.REPLICA_PROGRESS_S or not self._owed():
            return []
        detail = f"no progress for {limits.REPLICA_PROGRESS_S:g} s"
        return [*self.on_broken(detail), Reset(detail)]

    def _owed(self) -> bool:
        return bool(self._queue) or any(outgoing.owed for outgoing in self._by_key.values())

    def _pump(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._session and self._queue:
            outgoing, frame = self._queue[0]
            size = len(frame.data)
            if self._under_way_bytes + size > self._credit_bytes:
                break
            self._queue.popleft()
            self._queued_bytes -= size
            self._under_way_bytes += size
            effects.append(Send(self._renumbered(outgoing, frame)))
            outgoing.sent += size
        return effects

    def _renumbered(self, outgoing: _Outgoing, frame: ChunkFrame) -> ChunkFrame:
        header = None
        if outgoing.sent == 0:
            header = outgoing.header
            header.replication_session = self._session
        return ChunkFrame(outgoing.number, frame.offset, frame.data, frame.crc32c, frame.is_final, header)

    def _forget(self, outgoing: _Outgoing) -> None:
        del self._by_key[outgoing.key]
        del self._by_number[outgoing.number]
        self._under_way_bytes -= outgoing.under_way
        if any(waiting is outgoing for waiting, _ in self._queue):
            self._queue = deque(entry for entry in self._queue if entry[0] is not outgoing)
            self._queued_bytes = sum(len(frame.data) for _, frame in self._queue)
