"""A whole namespace without a coordinator: operations run one after another on the in-memory engine."""

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from cairnfs.base.checksums import chunk_id
from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, ROOT_INO
from cairnfs.coordinator.namespace import ids, mkfs, reap, trash
from cairnfs.coordinator.namespace.check import Checker
from cairnfs.coordinator.namespace.operation import Env, Footprint, Keeping, MoreSteps
from cairnfs.coordinator.namespace.registry import OPERATIONS
from cairnfs.engine.interface import Operation, Transaction
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

T = TypeVar("T")

ROOT = ROOT_INO
NODES = (1, 2)
_FIELD_BY_MESSAGE = {
    field.message_type.name: field.name
    for field in pb.Request.DESCRIPTOR.fields
    if field.containing_oneof is not None and field.message_type is not None
}


@contextmanager
def fails(code: "common_pb2.ErrorCode.ValueType") -> Iterator[None]:
    """The block raises CairnError with this code."""
    with pytest.raises(CairnError) as caught:
        yield
    assert common_pb2.ErrorCode.Name(caught.value.code) == common_pb2.ErrorCode.Name(code)


class Namespace:
    """Runs operations as the conductor does: footprint, transaction, further steps."""

    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.now_ns = 1_700_000_000_000_000_000
        self.caller = pb.Caller(uid=1000, gid=1000, umask=0o022)
        self.ids = ids.IdAllocator()
        self.steps = 0
        self.closed: Container[int] = ()  # what no session has open, as far as operations are told
        self.chunk_bytes: dict[bytes, bytes] = {}
        self.write(lambda txn: mkfs.format_file_system(txn, "cluster", self.now_ns))

    def write(self, body: Callable[[Transaction], T]) -> T:
        """Run `body` in a commit of its own; its error comes out here."""
        [outcome] = self.engine.commit([Operation(body)])
        if outcome.error is not None:
            raise outcome.error
        value: T = outcome.value
        return value

    def run(self, op: Any, footprint: Footprint | None = None) -> Any:
        """Run one operation to its end and return its result. `self.steps` tells how many commits it took."""
        self.now_ns += 1_000
        name = _FIELD_BY_MESSAGE[type(op).__name__]
        if isinstance(op, pb.Open) and op.truncate:
            name = "open_truncate"
        spec = OPERATIONS[name]
        plan = spec.footprint
        env = Env(caller=self.caller, now_ns=self.now_ns, trash=self.keeping(), closed=self.closed)
        if plan is None:
            return self.engine.read(lambda txn: spec.run(txn, op, env))  # type: ignore[arg-type]
        env.footprint = footprint or self.engine.read(lambda txn: plan(txn, op))
        if spec.creates_inode:
            env.new_ino = self.new_ino()
        self.steps = 0
        result: Any = MoreSteps(op)
        while isinstance(result, MoreSteps):
            request = result.request
            result = self.write(lambda txn, request=request: spec.run(txn, request, env))  # type: ignore[misc]
            self.steps += 1
        return result

    def keeping(self) -> Keeping | None:
        """What policies say of removed files now."""
        kept_s = self.engine.read(trash.retentions)
        return Keeping(kept_s, self.now_ns) if kept_s else None

    def new_ino(self) -> int:
        """An unused inode number."""
        if self.ids.wants_refill:
            self.ids.add(self.write(ids.reserve_inode_numbers))
        return self.ids.take()

    # -------------------------------------------------------------- shorthands

    def mkdir(self, name: bytes, parent: int = ROOT, mode: int = 0o755) -> int:
        """The number of a new directory."""
        reply: pb.EntryReply = self.run(pb.MkDir(parent=parent, name=name, mode=mode))
        return reply.attr.ino

    def create(self, name: bytes, parent: int = ROOT, mode: int = 0o644) -> int:
        """The number of a new regular file."""
        reply: pb.EntryReply = self.run(pb.MkNod(parent=parent, name=name, mode=mode, exclusive=True))
        return reply.attr.ino

    def attr(self, ino: int) -> common_pb2.Attr:
        """Attributes now."""
        reply: pb.AttrReply = self.run(pb.GetAttr(ino=ino))
        return reply.attr

    def find(self, name: bytes, parent: int = ROOT) -> int | None:
        """What `name` leads to."""
        reply: pb.EntryReply = self.run(pb.Lookup(parent=parent, name=name))
        return reply.attr.ino if reply.HasField("attr") else None

    def names(self, ino: int = ROOT) -> list[bytes]:
        """The names in a directory."""
        reply: pb.ReadDirReply = self.run(pb.ReadDir(ino=ino))
        assert reply.end
        return [entry.name for entry in reply.entries]

    def store(self, data: bytes) -> pb.StoredChunk:
        """A chunk as if two datanodes had stored it."""
        identity = chunk_id(data)
        self.chunk_bytes[identity] = data
        return pb.StoredChunk(chunk_id=identity, length=len(data), nodes=NODES)

    def commit(self, ino: int, offset: int, data: bytes) -> pb.CommitWriteReply:
        """Write `data` as a client would, cut at block borders, in one commit."""
        request = pb.CommitWrite(ino=ino, size=offset + len(data))
        position = 0
        while position < len(data):
            at = offset + position
            length = min(len(data) - position, BLOCK_BYTES - at % BLOCK_BYTES)
            stored = self.store(data[position : position + length])
            request.chunks.append(stored)
            request.slices.add(offset=at, length=length, chunk_id=stored.chunk_id)
            position += length
        reply: pb.CommitWriteReply = self.run(request)
        return reply

    def slices(self, ino: int) -> list[common_pb2.Slice]:
        """All slices of a file, as clients see them."""
        found: list[common_pb2.Slice] = []
        offset, size = 0, self.attr(ino).size
        while offset < size:
            reply: pb.ExtentsReply = self.run(pb.GetExtents(ino=ino, offset=offset, length=size - offset))
            found += reply.slices
            offset = reply.offset + reply.length
        return found

    def content(self, ino: int) -> bytes:
        """The bytes of a file, put together from its slices."""
        content = bytearray(self.attr(ino).size)
        for one in self.slices(ino):
            data = self.chunk_bytes[one.chunk_id]
            assert len(data) == one.chunk_length
            content[one.offset : one.offset + one.length] = data[one.chunk_offset :][: one.length]
        return bytes(content)

    def reap(self) -> None:
        """Reap every orphan."""
        for ino in self.engine.read(reap.list_orphans):
            while not self.write(lambda txn, ino=ino: reap.reap_step(txn, ino, self.now_ns)):  # type: ignore[misc]
                pass

    def check(self, *, wanted_replicas: int = len(NODES), step: int = 7) -> pb.FsckReport:
        """What the checker finds; every node is alive."""
        return self.checker(wanted_replicas=wanted_replicas, step=step).report

    def checker(self, *, wanted_replicas: int = len(NODES), step: int = 7) -> Checker:
        """A checker that has been through everything."""
        checker = Checker(wanted_replicas, lambda _node: True)
        while not self.engine.read(lambda txn: checker.step(txn, step)):
            pass
        return checker

    def assert_sound(self) -> None:
        """The checker finds no fault."""
        assert list(self.check().problems) == []
