"""The services of a coordinator: sessions, administration, and what datanodes call."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from google.protobuf.message import DecodeError

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import WELCOME_DEADLINE_S
from cairnfs.base.logs import get_logger
from cairnfs.coordinator.conductor.trees import Tell
from cairnfs.coordinator.driver import Driver, Outbox
from cairnfs.engine.interface import EngineError
from cairnfs.http2.calls import Status
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb, nodes_pb2, nodes_pb2_grpc
from cairnfs.serving import server
from cairnfs.serving.methods import Unavailable, many_answers, many_requests, unary
from cairnfs.serving.server import Call, Opener

log = get_logger(__name__)

Fsck = Callable[[pb.FsckRequest, Any], AsyncIterator[pb.FsckProgress]]
Dump = Callable[[pb.DumpRequest, Any], AsyncIterator[pb.DumpPart]]

P = ParamSpec("P")
T = TypeVar("T")

_METADATA: Final = "/cairnfs.rpc.v1.Metadata/"
_NODES: Final = "/cairnfs.rpc.v1.Nodes/"


class MetadataService:
    """Sessions, and what the command line asks."""

    def __init__(
        self,
        driver: Driver,
        status: Callable[[], pb.StatusReply],
        cluster_map: Callable[[], common.ClusterMap],
        fsck: Fsck | None = None,
        dump: Dump | None = None,
    ) -> None:
        self._driver = driver
        self._status = status
        self._cluster_map = cluster_map
        self._fsck = fsck
        self._dump = dump

    def methods(self) -> dict[str, Opener]:
        """What a server takes."""
        found: dict[str, Opener] = {
            _METADATA + "Session": lambda call: _Session(self._driver, call),
            _METADATA + "Status": unary(pb.StatusRequest, _unless_engine_fails(self._get_status)),
            _METADATA + "ListNodes": unary(pb.ListNodesRequest, self._list_nodes),
        }
        found[_METADATA + "SetPolicy"] = unary(pb.SetPolicyRequest, self._set_policy)
        found[_METADATA + "ListRealms"] = unary(pb.ListRealmsRequest, _unless_engine_fails(self._list_realms))
        found[_METADATA + "ListTrash"] = unary(pb.ListTrashRequest, _unless_engine_fails(self._list_trash))
        found[_METADATA + "ChangeTrash"] = unary(pb.ChangeTrashRequest, self._change_trash)
        found[_METADATA + "ListSnapshots"] = unary(
            pb.ListSnapshotsRequest, _unless_engine_fails(self._list_snapshots)
        )
        for name, request, begin in (
            ("MakeSnapshot", pb.MakeSnapshotRequest, self._driver.make_snapshot),
            ("DeleteSnapshot", pb.DeleteSnapshotRequest, self._driver.delete_snapshot),
            ("CloneTree", pb.CloneTreeRequest, self._driver.clone),
        ):
            follow = _unless_engine_fails_meanwhile(_progress_of(begin))
            found[_METADATA + name] = many_answers(request, follow)
        if self._fsck is not None:
            found[_METADATA + "Fsck"] = many_answers(
                pb.FsckRequest, _unless_engine_fails_meanwhile(self._fsck)
            )
        if self._dump is not None:
            found[_METADATA + "Dump"] = many_answers(
                pb.DumpRequest, _unless_engine_fails_meanwhile(self._dump)
            )
        return found

    async def _get_status(self, _request: pb.StatusRequest, _context: Any) -> pb.StatusReply:
        return self._status()

    async def _list_nodes(self, _request: pb.ListNodesRequest, _context: Any) -> pb.ListNodesReply:
        return pb.ListNodesReply(cluster_map=self._cluster_map())

    async def _set_policy(self, request: pb.SetPolicyRequest, _context: Any) -> pb.SetPolicyReply:
        return await _answer_of(partial(self._driver.set_policy, request))

    async def _list_realms(self, request: pb.ListRealmsRequest, _context: Any) -> pb.ListRealmsReply:
        try:
            return self._driver.conductor.realms.list_all(request.path)
        except CairnError as error:
            return pb.ListRealmsReply(error=error.code, detail=error.detail)

    async def _list_trash(self, request: pb.ListTrashRequest, _context: Any) -> pb.ListTrashReply:
        try:
            return self._driver.conductor.trash.list_entries(request)
        except CairnError as error:
            return pb.ListTrashReply(error=error.code, detail=error.detail)

    async def _change_trash(self, request: pb.ChangeTrashRequest, _context: Any) -> pb.ChangeTrashReply:
        return await _answer_of(partial(self._driver.change_trash, request))

    async def _list_snapshots(self, request: pb.ListSnapshotsRequest, _context: Any) -> pb.ListSnapshotsReply:
        try:
            return self._driver.conductor.trees.list_snapshots(request.path)
        except CairnError as error:
            return pb.ListSnapshotsReply(error=error.code, detail=error.detail)


async def _answer_of(start: Callable[[Callable[[T], None]], None]) -> T:
    """What the function that `start` is given is called with."""
    answered: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def answer(reply: T) -> None:
        if not answered.done():
            answered.set_result(reply)

    start(answer)
    return await answered


def _progress_of(begin: Callable[[Any, Tell], None]) -> Callable[[Any, Any], AsyncIterator[pb.TreeProgress]]:
    """How work on a tree gets on. It goes on when the caller has gone."""

    async def follow(request: Any, _context: Any) -> AsyncIterator[pb.TreeProgress]:
        told: asyncio.Queue[pb.TreeProgress] = asyncio.Queue()
        begin(request, told.put_nowait)
        while True:
            progress = await told.get()
            yield progress
            if progress.done or progress.error:
                return

    return follow


class _Session:
    """The receiver of one session stream: messages go to the driver, its outbox to the stream."""

    def __init__(self, driver: Driver, call: Call) -> None:
        self._driver = driver
        self._call = call
        self._connection = 0
        self._outbox: Outbox | None = None
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._hello_due = self._loop.call_later(
            WELCOME_DEADLINE_S, self._end, Status.DEADLINE_EXCEEDED, "no Hello came"
        )

    def message(self, data: bytes) -> None:
        try:
            message = pb.ClientMessage.FromString(data)
        except DecodeError:
            self._end(Status.INTERNAL, "a malformed message")
            return
        if self._connection:
            self._deliver(message)
        elif message.HasField("hello"):
            self._hello_due.cancel()
            self._connection, self._outbox = self._driver.connect(message.hello, self._filled)
            self._filled()
        else:
            self._end(Status.INVALID_ARGUMENT, "a session begins with Hello")

    def _deliver(self, message: pb.ClientMessage) -> None:
        try:
            self._driver.message(self._connection, message)
        except Exception:
            log.exception("message_failed")
            self._end(Status.INTERNAL, "internal error")

    def ended(self) -> None:
        self._end()

    def unblocked(self) -> None:
        self._filled()

    def gone(self) -> None:
        self._leave()

    def _filled(self) -> None:
        outbox = self._outbox
        if outbox is None or self._over:
            return
        while not self._call.blocked and (message := outbox.take()):
            self._call.send(message)
        if outbox.closing and not outbox.size_bytes:
            self._over = True  # the driver, which may be calling, hears of it afterwards
            self._loop.call_soon(self._end)

    def _end(self, status: Status = Status.OK, detail: str = "") -> None:
        self._call.finish(status, detail)
        self._leave()

    def _leave(self) -> None:
        self._over = True
        self._hello_due.cancel()
        connection, self._connection = self._connection, 0
        if connection:
            self._driver.disconnect(connection)


class Server:
    """The server of a coordinator, which takes no call once `deposed` is true."""

    def __init__(
        self,
        metadata: MetadataService,
        nodes: nodes_pb2_grpc.NodesServicer,
        deposed: Callable[[], bool] = lambda: False,
    ) -> None:
        methods = {**metadata.methods(), **_nodes_methods(nodes)}
        self._server = server.Server({name: _unless(deposed, opener) for name, opener in methods.items()})

    def bind(self, listen: str) -> str:
        """Take HOST:PORT; returns it with the port that port 0 came to. Raises OSError."""
        return self._server.bind(listen)

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once, breaking all streams."""
        await self._server.stop()


class _Refusal:
    """The receiver of a call that was answered when it began."""

    def __init__(self, call: Call) -> None:
        call.finish(Status.UNAVAILABLE, "another coordinator leads")

    def message(self, data: bytes) -> None:
        pass

    def ended(self) -> None:
        pass

    def unblocked(self) -> None:
        pass

    def gone(self) -> None:
        pass


def _unless(deposed: Callable[[], bool], opener: Opener) -> Opener:
    return lambda call: _Refusal(call) if deposed() else opener(call)


def _unless_engine_fails(handle: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Tell the caller when the engine cannot be read now."""

    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handle(*args, **kwargs)
        except EngineError as error:
            raise _unavailable(error) from error

    return guarded


def _unless_engine_fails_meanwhile(
    handle: Callable[P, AsyncIterator[T]],
) -> Callable[P, AsyncIterator[T]]:
    """The same for many answers."""

    async def guarded(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        try:
            async for answer in handle(*args, **kwargs):
                yield answer
        except EngineError as error:
            raise _unavailable(error) from error

    return guarded


def _unavailable(error: EngineError) -> Unavailable:
    log.warning("metadata engine failed", what="what an operator asked", error=str(error))
    return Unavailable("the metadata engine failed; try again")


def _nodes_methods(nodes: Any) -> dict[str, Opener]:
    return {
        _NODES + "Register": unary(nodes_pb2.RegisterRequest, nodes.Register),
        _NODES + "Heartbeat": unary(nodes_pb2.HeartbeatRequest, nodes.Heartbeat),
        _NODES + "ChangeNode": unary(nodes_pb2.ChangeNodeRequest, nodes.ChangeNode),
        _NODES + "UpkeepStatus": unary(nodes_pb2.UpkeepStatusRequest, nodes.UpkeepStatus),
        _NODES + "ReportChunks": many_requests(nodes_pb2.ChunkReport, nodes.ReportChunks),
    }
