"""Reads chunks of datanodes on this host from their files, without gRPC.

docs/internals/replication.md explains it. Whatever goes wrong here, the answer is None and the bytes come by
RetrieveChunk.
"""

import errno
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import reader_node
from cairnfs.base.logs import get_logger
from cairnfs.client.local_files import LocalChunk, LocalFile, LocalFiles
from cairnfs.client.node_ranking import NodeRanking
from cairnfs.client.retrieving import Piece
from cairnfs.client.side_socket import SideConnection, SideDialer
from cairnfs.client.waiting import Slot, gather
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_log = get_logger(__name__)

Work = Callable[[], "bytes | None"]
InThread = Callable[[Work], Awaitable["bytes | None"]]

_GAP_BYTES: Final = 64 * limits.KIB  # is read along rather than asked for around
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def in_threads() -> InThread:
    """Runs work in LOCAL_THREADS worker threads. One that hangs at a disk is left behind when cancelled."""
    limiter = trio.CapacityLimiter(limits.LOCAL_THREADS)

    async def run(work: Work) -> bytes | None:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)

    return run


class _Link:
    """The connection to one side socket. Questions that come while one is under way share the next one."""

    def __init__(
        self, info: common_pb2.NodeInfo, files: LocalFiles, dialer: SideDialer, clock: Callable[[], float]
    ) -> None:
        self.asks: deque[tuple[bytes, Slot[None]]] = deque()
        self.serving = False
        self._info = info
        self._files = files
        self._dialer = dialer
        self._clock = clock
        self._connection: SideConnection | None = None
        self._off_until_s = float("-inf")

    @property
    def off(self) -> bool:
        """It failed a moment ago."""
        return self._clock() < self._off_until_s

    def rest(self) -> None:
        """Ask nothing for a while."""
        self._off_until_s = self._clock() + limits.LOCAL_RETRY_S

    async def serve(self) -> None:
        """Ask until nobody waits any more."""
        try:
            while self.asks:
                batch = [self.asks.popleft() for _ in range(min(len(self.asks), limits.LOCATE_CHUNKS_MAX))]
                try:
                    await self._ask(list(dict.fromkeys(chunk_id for chunk_id, _ in batch)))
                finally:
                    for _, slot in batch:
                        slot.put(None)
        except (CairnError, trio.TooSlowError) as error:
            _log.debug("no descriptors from a datanode", node=self._info.node, detail=str(error))
            self.rest()
            self._disconnect()
        finally:
            self.serving = False
            while self.asks:
                self.asks.popleft()[1].put(None)

    async def _ask(self, chunk_ids: list[bytes]) -> None:
        """Also over a new connection, when the old one has ended: the datanode may have been restarted."""
        with trio.fail_after(limits.HEDGE_MAX_S):
            if self._connection is not None:
                try:
                    return await self._exchange(self._connection, chunk_ids)
                except CairnError as error:
                    if error.code != common_pb2.ERROR_CODE_UNAVAILABLE:
                        raise
                    self._disconnect()
            self._connection = await self._dialer(self._info.unix_socket)
            await self._exchange(self._connection, chunk_ids)

    async def _exchange(self, connection: SideConnection, chunk_ids: list[bytes]) -> None:
        self._files.make_room(len(chunk_ids))
        request = chunks_pb2.LocateRequest(
            chunk_ids=chunk_ids, held_packs=self._files.packs_of(self._info.node)
        )
        reply, received = await connection.ask(chunks_pb2.SideRequest(locate=request))
        self._files.take(self._info.node, reply.locate, received)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._files.drop_node(self._info.node)

    def close(self) -> None:
        """Nothing is asked any more."""
        self._disconnect()


class LocalReader:
    """Reads pieces of chunks that lie on this host. Its nursery outlives every caller."""

    def __init__(
        self,
        ranking: NodeRanking,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        dialer: SideDialer,
        failed: Callable[[bytes, int, CairnError], None],
        in_thread: InThread,
    ) -> None:
        self.files = LocalFiles(clock)
        self._ranking = ranking
        self._nursery = nursery
        self._clock = clock
        self._dialer = dialer
        self._failed = failed
        self._in_thread = in_thread
        self._links: dict[tuple[int, str], _Link] = {}
        self._scratch = memoryview(bytearray(limits.LOCAL_INLINE_MAX_BYTES))

    def read_at_once(self, piece: Piece) -> bytes | None:
        """The bytes, if the place is known, the kernel has them in memory, and they are few and intact."""
        chunk = self.files.find(piece.chunk_id)
        if chunk is None or not chunk.file.at_once or chunk.length != piece.chunk_length:
            return None
        start, end = chunk.blocks_around(piece.offset, piece.length)
        if end - start > len(self._scratch):
            return None
        blocks = self._scratch[: end - start]
        try:
            got = os.preadv(chunk.file.descriptor, [blocks], chunk.position + start, os.RWF_NOWAIT)
        except OSError as error:
            chunk.file.at_once = error.errno not in _UNSUPPORTED
            return None
        if got != end - start or not chunk.intact(blocks, start):
            return None
        return bytes(blocks[piece.offset - start : piece.offset - start + piece.length])

    async def read(self, piece: Piece, nodes: Sequence[int]) -> bytes | None:
        """The bytes of `piece`, or None when they must come by RetrieveChunk."""
        held = self.files.find(piece.chunk_id)
        # The chunk may have been stored anew since: only what lies there now counts as corrupt.
        if held is not None and (data := await self._read(held, piece, fresh=False)) is not None:
            return data
        for info in self._ranking.local(nodes, reader_node(piece.chunk_id, nodes)):
            chunk = await self._locate(piece.chunk_id, info)
            if chunk is not None and (data := await self._read(chunk, piece, fresh=True)) is not None:
                return data
        return None

    async def _read(self, chunk: LocalChunk, piece: Piece, *, fresh: bool) -> bytes | None:
        if chunk.length != piece.chunk_length:
            return None
        node = chunk.file.node
        try:
            with trio.fail_after(limits.HEDGE_MAX_S):
                data = await self._in_thread(partial(_read_checked, chunk, piece))
        except (OSError, trio.TooSlowError) as error:
            _log.debug("cannot read a chunk file", node=node, detail=str(error))
            self._ranking.failed(node)
            return None
        if data is None:
            self.files.forget(piece.chunk_id)
            if fresh:
                wrong = CairnError(common_pb2.ERROR_CODE_CORRUPT, "wrong checksum in the datanode's file")
                self._failed(piece.chunk_id, node, wrong)
        return data

    async def _locate(self, chunk_id: bytes, info: common_pb2.NodeInfo) -> LocalChunk | None:
        if not info.unix_socket:
            return None
        key = (info.node, info.unix_socket)
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = _Link(info, self.files, self._dialer, self._clock)
        if link.off:
            return None
        slot = Slot[None]()
        link.asks.append((chunk_id, slot))
        if not link.serving:
            link.serving = True
            self._nursery.start_soon(link.serve)
        with trio.move_on_after(limits.LOCATE_PATIENCE_S):
            await slot.wait()
            return self.files.find(chunk_id)
        link.rest()
        return None

    def place(self, chunk_id: bytes) -> LocalChunk | None:
        """See `ChunkIO.place`."""
        chunk = self.files.find(chunk_id)
        return chunk if chunk is not None and chunk.file.at_once else None

    async def find_places(self, chunks: Sequence[tuple[bytes, Sequence[int]]]) -> None:
        """See `ChunkIO.find_places`."""
        unknown = deque(chunks)

        async def ask() -> None:
            while unknown:
                chunk_id, nodes = unknown.popleft()
                if self.files.find(chunk_id) is None:
                    await self._find_place(chunk_id, nodes)

        # The answer to one question often has the places of what would be asked next.
        await gather([ask] * min(len(chunks), limits.LOCATE_CHUNKS_MAX))
        runs = _runs([place for chunk_id, _ in chunks if (place := self.files.find(chunk_id)) is not None])
        absent = [run for run in runs if not _in_memory(run)]
        if absent:
            await self._in_thread(partial(_begin_to_read, absent))

    async def _find_place(self, chunk_id: bytes, nodes: Sequence[int]) -> None:
        for info in self._ranking.local(nodes, reader_node(chunk_id, nodes)):
            if await self._locate(chunk_id, info) is not None:
                return

    def check_progress(self) -> None:
        """Give up old descriptors; call about once a second."""
        self.files.expire()

    def close(self) -> None:
        """Close every connection and descriptor; nobody reads any more."""
        for link in self._links.values():
            link.close()
        self.files.clear()


class _Run(NamedTuple):
    """Bytes [start, end) of a file, with chunks that lie near each other."""

    file: LocalFile
    start: int
    end: int


def _runs(places: list[LocalChunk]) -> list[_Run]:
    places.sort(key=lambda place: (place.file.descriptor, place.position))
    runs: list[_Run] = []
    for place in places:
        file, start, end = place.file, place.position, place.position + place.length
        if runs and runs[-1].file is file and start - runs[-1].end <= _GAP_BYTES:
            runs[-1] = runs[-1]._replace(end=end)
        else:
            runs.append(_Run(file, start, end))
    return runs


def _in_memory(run: _Run) -> bool:
    """Whether the kernel has the ends of a run, and so probably all of it, in memory."""
    byte = bytearray(1)
    try:
        return all(
            os.preadv(run.file.descriptor, [byte], position, os.RWF_NOWAIT) == 1
            for position in (run.start, run.end - 1)
        )
    except OSError as error:
        run.file.at_once = error.errno not in _UNSUPPORTED
        return False


def _begin_to_read(runs: list[_Run]) -> None:
    """Have the kernel read them into memory."""
    for run in runs:
        with suppress(OSError):
            os.posix_fadvise(run.file.descriptor, run.start, run.end - run.start, os.POSIX_FADV_WILLNEED)


def _read_checked(chunk: LocalChunk, piece: Piece) -> bytes | None:
    """The bytes of a piece, or None when they have not the checksums that the datanode keeps of them."""
    start, end = chunk.blocks_around(piece.offset, piece.length)
    position = chunk.position + start
    blocks = os.pread(chunk.file.descriptor, end - start, position)
    while len(blocks) < end - start:
        more = os.pread(chunk.file.descriptor, end - start - len(blocks), position + len(blocks))
        if not more:
            return None
        blocks += more
    if not chunk.intact(blocks, start):
        return None
    first = piece.offset - start
    return blocks if len(blocks) == piece.length else blocks[first : first + piece.length]
