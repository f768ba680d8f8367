"""What the client offers to the layers above: a metadata session and a chunk client, both trio.

`cairnfs.client.session.Session` and `cairnfs.client.chunks.ChunkClient` implement these protocols;
tests implement them in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


@dataclass(slots=True)
class Holdings:
    """What a reconnecting client reclaims (`Hello`)."""

    read_leases: list[int] = field(default_factory=list[int])
    write_leases: list[int] = field(default_factory=list[int])
    open_inodes: list[int] = field(default_factory=list[int])
    open_for_write: list[int] = field(default_factory=list[int])
    locks: list[pb.HeldLock] = field(default_factory=list[pb.HeldLock])


class SessionListener(Protocol):
    """Told of every event of the session stream, synchronously and in the order of the stream.

    All methods run on the trio thread, must not block, and start tasks of their own for longer work.
    """

    def on_reply(self, request: pb.Request, reply: pb.Reply) -> None:
        """A reply arrived; called before the task that waits for it is woken, also for errors."""
        ...

    def on_recall(self, recall: pb.Recall) -> None:
        """Leases or entries must go; answer later with `Session.recall_done`."""
        ...

    def on_flush(self, number: int) -> None:
        """All that is unsent now is to be saved; answer with `Session.flush_done` when it is."""
        ...

    def on_welcome(self, welcome: pb.Welcome) -> None:
        """The session is (again) connected; `welcome.resumed` is false for a new session."""
        ...

    def on_doubt(self) -> None:
        """Nothing was heard for CLIENT_DOUBT_S: no cache may be used until `on_welcome` or `on_trust`."""
        ...

    def on_trust(self) -> None:
        """The same session heard from its coordinator again, in time: caches are good."""
        ...

    def on_notice(self, notice: pb.Notice) -> None:
        """A hint from the coordinator."""
        ...

    def holdings(self) -> Holdings:
        """What to reclaim now."""
        ...


class MetadataSession(Protocol):
    """One session with the coordinators."""

    @property
    def trusted(self) -> bool:
        """Whether caches may be used at this very moment."""
        ...

    async def call(self, op: Any, caller: pb.Caller | None = None, *, deadline_s: float | None = None) -> Any:
        """Send one operation (a message such as `pb.Lookup`) and return its result message.

        Survives reconnection: the request is sent again with its number. The result is the message in
        `Reply.result` (None when the operation has none). Raises CairnError with the reply's code, with
        TIMED_OUT after `deadline_s` (default limits.RPC_DEADLINE_S, or a second more; math.inf for lock
        waits), with SESSION_FENCED when the session ended before the reply arrived. Safe to cancel: the
        reply is then dropped (listeners still see it).
        """
        ...

    def recall_done(self, recall_id: int, still_open: Sequence[int], open_for_write: Sequence[int]) -> None:
        """Acknowledge a recall; sent with the next batch, at once."""
        ...

    def flush_done(self, number: int, error: CairnError | None) -> None:
        """Answer a Flush: everything was saved, or this kept it from that."""
        ...

    def node(self, number: int) -> common_pb2.NodeInfo | None:
        """The datanode with this number, by the newest cluster map received."""
        ...


class Lender(Protocol):
    """Reads files by descriptors that it is lent (see `vfs.answers`)."""

    def lend(self, descriptor: int) -> int:
        """Copy a descriptor; the number of the loan, 0 if there is no room."""
        ...

    def end_loan(self, loan: int) -> None:
        """Close the copy."""
        ...


class ChunkFile(Protocol):
    """An open file of a datanode on this host."""

    def lend(self, lender: Lender) -> int:
        """The number of its loan, made if there is none; it ends when the file is given up. 0: not lent."""
        ...


class ChunkPlace(Protocol):
    """Where a chunk is on this host; every byte that is read there must be checked."""

    @property
    def file(self) -> ChunkFile: ...
    @property
    def length(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def checksums(self) -> Sequence[int]:
        """CRC-32C of every 64 KiB of the chunk."""
        ...


class ChunkIO(Protocol):
    """Stores and retrieves chunks on the datanodes."""

    async def store(self, chunks: Sequence[bytes]) -> list[pb.StoredChunk]:
        """Store each chunk (1 to CHUNK_MAX_BYTES) durably on as many nodes as the cluster wants.

        Hashes in worker threads, plans all chunks with one `PlanWrite`, skips those already stored
        (`nodes` empty), retries elsewhere when nodes fail. Raises CairnError NO_SPACE, UNAVAILABLE or
        TIMED_OUT when a chunk could not be placed.
        """
        ...

    async def retrieve(
        self, chunk_id: bytes, chunk_length: int, nodes: Sequence[int], offset: int, length: int
    ) -> bytes:
        """`length` bytes at `offset` of a chunk, checked, from the best of `nodes`, failing over.

        Raises CairnError UNAVAILABLE when no replica answers and CORRUPT when all that answer are bad.
        Bad and missing replicas are reported to the coordinator.
        """
        ...

    def place(self, chunk_id: bytes) -> ChunkPlace | None:
        """Where a chunk is on this host, if that is known and it may be read there without waiting."""
        ...

    async def find_places(self, chunks: Sequence[tuple[bytes, Sequence[int]]]) -> None:
        """Know the places of small chunks (each with its nodes), and have them on the way into memory.

        As far as they are on this host: look afterwards which places are known.
        """
        ...
