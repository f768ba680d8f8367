"""Work that the coordinator gives to this datanode: copy, delete and verify chunks, in the background."""

import asyncio
from collections.abc import Callable, Sequence

from cairnfs.base import limits
from cairnfs.base.errors import CairnError, ErrorCode
from cairnfs.base.logs import get_logger
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.peers import Peers
from cairnfs.datanode.scrubber import is_intact
from cairnfs.rpc.v1 import chunks_pb2, common_pb2, nodes_pb2

_log = get_logger(__name__)


class TaskRunner:
    """Runs a few tasks at once; results wait in `results` until a heartbeat has taken them."""

    def __init__(self, disk: Disk, peers: Peers, on_result: Callable[[], None]) -> None:
        self.results: list[nodes_pb2.TaskResult] = []
        self._disk = disk
        self._peers = peers
        self._on_result = on_result
        self._turns = asyncio.Semaphore(limits.TASKS_CONCURRENT_MAX)
        self._running: dict[int, asyncio.Task[None]] = {}

    @property
    def running(self) -> int:
        """Tasks taken and not finished."""
        return len(self._running)

    def start(self, tasks: Sequence[nodes_pb2.Task]) -> None:
        """Take tasks; one that runs already is not started again."""
        for task in tasks:
            if task.id not in self._running:
                self._running[task.id] = asyncio.create_task(self._run(task), name=f"task {task.id}")

    async def _run(self, task: nodes_pb2.Task) -> None:
        try:
            async with self._turns:
                result = await self._result(task)
        finally:
            del self._running[task.id]
        result.id = task.id
        self.results.append(result)
        self._on_result()

    async def _result(self, task: nodes_pb2.Task) -> nodes_pb2.TaskResult:
        try:
            match task.WhichOneof("kind"):
                case "copy":
                    return await self._copy(task.copy)
                case "delete":
                    return await self._delete(task.delete)
                case "verify":
                    return await self._verify(task.verify)
                case None:
                    return nodes_pb2.TaskResult(
                        error=common_pb2.ERROR_CODE_NOT_SUPPORTED, detail="unknown task"
                    )
        except CairnError as error:
            _log.info("task failed", task=task.id, detail=str(error))
            return nodes_pb2.TaskResult(error=error.code, detail=error.detail)
        except Exception as error:  # noqa: BLE001  # a bug must not stop the datanode; it is reported
            _log.exception("task failed", task=task.id)
            return nodes_pb2.TaskResult(error=common_pb2.ERROR_CODE_INTERNAL, detail=repr(error))

    async def _copy(self, task: nodes_pb2.CopyChunk) -> nodes_pb2.TaskResult:
        length = self._disk.store.length(task.chunk_id)
        if length is None:
            raise CairnError(common_pb2.ERROR_CODE_NOT_FOUND, "the chunk to copy is not here")
        copy = _Copy(self._peers, task.targets)
        try:
            await copy.run(self._disk, chunks_pb2.ChunkHeader(chunk_id=task.chunk_id, length=length))
        except CairnError as error:
            corrupt = [task.chunk_id] if error.code == common_pb2.ERROR_CODE_CORRUPT else []
            return nodes_pb2.TaskResult(error=error.code, detail=error.detail, corrupt=corrupt)
        finally:
            copy.cancel()
        failed = common_pb2.ERROR_CODE_UNAVAILABLE if copy.failures else common_pb2.ERROR_CODE_OK
        return nodes_pb2.TaskResult(error=failed, detail="; ".join(copy.failures), nodes=copy.stored)

    async def _delete(self, task: nodes_pb2.DeleteChunks) -> nodes_pb2.TaskResult:
        store = self._disk.store
        kept = await self._disk.run(store.delete, list(task.chunk_ids), task.as_of_seq, task.boot)
        return nodes_pb2.TaskResult(kept=kept)

    async def _verify(self, task: nodes_pb2.VerifyChunks) -> nodes_pb2.TaskResult:
        limit = min(task.limit or limits.VERIFY_CHUNKS_MAX, limits.VERIFY_CHUNKS_MAX)
        entries = await self._disk.run(self._disk.store.list_chunks, task.after, limit)
        corrupt = [
            entry.chunk_id
            for entry in entries
            if not await self._disk.run(is_intact, self._disk.store, entry.chunk_id)
        ]
        last = entries[-1].chunk_id if entries else task.after
        return nodes_pb2.TaskResult(corrupt=corrupt, last=last, end=len(entries) < limit)

    async def close(self) -> None:
        """Stop all tasks; the coordinator gives them again."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class _Copy:
    """One chunk on its way to other nodes; implements ReplicaListener."""

    def __init__(self, peers: Peers, targets: Sequence[int]) -> None:
        self.stored: list[int] = []
        self.failures: list[str] = []
        self._peers = peers
        self._received = dict.fromkeys(targets, 0)  # of targets that are not done
        self._news = asyncio.Event()

    async def run(self, disk: Disk, header: chunks_pb2.ChunkHeader) -> None:
        """Send the chunk; returns when every target holds it or has failed. Raises what reading raises."""
        for node in self._received:
            self._peers.begin(node, self, header)
        for offset in range(0, header.length, limits.FRAME_MAX_BYTES):
            size = min(limits.FRAME_MAX_BYTES, header.length - offset)
            data, crc = await disk.run(disk.store.read, header.chunk_id, offset, size)
            frame = ChunkFrame(0, offset, data, crc, offset + size == header.length)
            for node in list(self._received):
                self._peers.push(node, self, frame)
            await self._until_received(offset + size - limits.COPY_WINDOW_BYTES)
        while self._received:
            await self._wait()

    async def _until_received(self, size_bytes: int) -> None:
        while any(received < size_bytes for received in self._received.values()):
            await self._wait()

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    def replica_answered(self, node: int, ack: chunks_pb2.ChunkDataAck) -> None:
        """See ReplicaListener."""
        if ack.error:
            self.replica_failed(node, ack.detail or ErrorCode.Name(ack.error))
        elif ack.stored:
            del self._received[node]
            self.stored.append(node)
        else:
            self._received[node] = ack.bytes_received
        self._news.set()

    def replica_failed(self, node: int, detail: str) -> None:
        """See ReplicaListener."""
        if self._received.pop(node, None) is not None:
            self.failures.append(f"node {node}: {detail}")
        self._news.set()

    def cancel(self) -> None:
        """Give up what is not done."""
        for node in self._received:
            self._peers.cancel(node, self)
