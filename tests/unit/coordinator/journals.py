"""Entries of batches, and a client that makes inodes under numbers it has reserved."""

from typing import Any

from cairnfs.base.checksums import chunk_id
from cairnfs.base.limits import BLOCK_BYTES
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import CALLER, ROOT, Client, Cluster

NOW_NS = 5_000


def entry(*touches: int, new: int = 0, caller: pb.Caller = CALLER, **op: Any) -> pb.BatchEntry:
    """One change that touches the inodes `touches` and makes `new`."""
    return pb.BatchEntry(caller=caller, now_ns=NOW_NS, new_ino=new, touches=touches, **op)


def make(parent: int, name: bytes, new: int) -> pb.BatchEntry:
    """A new file."""
    return entry(parent, new=new, mknod=pb.MkNod(parent=parent, name=name, mode=0o100644))


def make_directory(parent: int, name: bytes, new: int) -> pb.BatchEntry:
    """A new directory."""
    return entry(parent, new=new, mkdir=pb.MkDir(parent=parent, name=name, mode=0o755))


def unlink(parent: int, name: bytes, ino: int, *, keep_open: bool = False) -> pb.BatchEntry:
    """A file loses a name."""
    return entry(parent, ino, unlink=pb.Unlink(parent=parent, name=name, keep_open=keep_open))


def chmod(ino: int, mode: int) -> pb.BatchEntry:
    """Other permissions."""
    return entry(ino, set_attr=pb.SetAttr(ino=ino, mode=mode))


def reserve(client: Client, count: int = 100) -> list[int]:
    """Inode numbers for `client` alone."""
    reply = client.ok(reserve_inodes=pb.ReserveInodes(count=count)).reserve_inodes
    return list(range(reply.first, reply.first + reply.count))


def directory(client: Client, *asked: Client, name: bytes = b"d") -> int:
    """A new directory, whose WRITE lease the client gets with it; `asked` have their recalls answered."""
    seq = client.send(mkdir=pb.MkDir(parent=ROOT, name=name, mode=0o755))
    for other in asked:
        other.answer()
    reply = client.replies[seq]
    assert reply.entry.lease == pb.LEASE_KIND_WRITE
    return reply.entry.attr.ino


def send(client: Client, *entries: pb.BatchEntry, seq: int = 0) -> int:
    """Send a batch (again, when `seq` is given)."""
    return client.send(seq, batch=pb.Batch(entries=entries))


def settle(client: Client, *entries: pb.BatchEntry) -> pb.BatchReply:
    """Send a batch of which every entry must succeed."""
    reply = client.ok(batch=pb.Batch(entries=entries)).batch
    assert reply.executed == len(entries)
    assert [result for result in reply.results if result.error] == []
    return reply


def kind(cluster: Cluster, client: Client, ino: int) -> int:
    """The lease that the client holds."""
    return cluster.conductor.context.leases.kind(client.session_id, ino)


def names(client: Client, ino: int) -> list[bytes]:
    """Entries of a directory."""
    return [found.name for found in client.ok(readdir=pb.ReadDir(ino=ino)).readdir.entries]


def errors(reply: pb.BatchReply) -> dict[int, int]:
    """Entries that failed, and why."""
    return {result.index: result.error for result in reply.results if result.error}


def slices(first_block: int, count: int) -> pb.CommitWrite:
    """`count` blocks, each with a chunk of its own."""
    commit = pb.CommitWrite(size=BLOCK_BYTES * (first_block + count))
    for number in range(first_block, first_block + count):
        identity = chunk_id(b"%d" % number)
        commit.chunks.append(pb.StoredChunk(chunk_id=identity, length=9, nodes=[1, 2]))
        commit.slices.append(
            common.Slice(offset=number * BLOCK_BYTES, length=9, chunk_id=identity, chunk_offset=0)
        )
    return commit


def write(ino: int, first_block: int = 0, count: int = 1) -> pb.BatchEntry:
    """Content for a file."""
    commit = slices(first_block, count)
    commit.ino = ino
    return entry(ino, commit_write=commit)
