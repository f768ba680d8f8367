"""Keys, the chunk table, inode numbers, formatting and usage."""

import pytest

from cairnfs.base.limits import ID_RANGE, ROOT_INO
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import ids, mkfs, tree, usage
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.engine.interface import Operation
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2
from tests.unit.namespace.harness import ROOT, Namespace, fails

CHUNK = b"c" * 32


@pytest.fixture
def fs() -> Namespace:
    return Namespace()


def chunk(fs: Namespace) -> ChunkRecord:
    record = fs.engine.read(lambda txn: chunk_table.get_chunk(txn, CHUNK))
    assert record is not None
    return record


def garbage(fs: Namespace, before_ns: int = 1 << 62) -> list[bytes]:
    found = fs.engine.read(lambda txn: chunk_table.scan_garbage(txn, before_ns, 100))
    return [identity for identity, _ in found]


def test_keys_are_ordered_as_their_parts() -> None:
    parts = [(1, b"\x01"), (1, b"a"), (1, b"a\x01"), (1, b"\xff" * 255), (2, b"a"), (255, b"b"), (256, b"a")]
    made = [keys.dentry(*part) for part in parts]
    assert made == sorted(made)
    blocks = [keys.extent(1, block) for block in (0, 1, 255, 256, 1 << 41)]
    assert blocks == sorted(blocks)
    assert keys.extent(1, 1 << 41) < keys.extent(2, 0)


@pytest.mark.parametrize("ino", [1, 255, (1 << 64) - 1])
def test_ranges_hold_exactly_their_keys(ino: int) -> None:
    start, end = keys.dentry_range(ino)
    assert start <= keys.dentry(ino, b"\x01") < keys.dentry(ino, b"\xff" * 255) < end
    start, end = keys.dentry_range(ino, b"m")
    assert keys.dentry(ino, b"m") < start <= keys.dentry(ino, b"m\x01")
    start, end = keys.extent_range(ino, 3, 9)
    assert keys.extent(ino, 2) < start <= keys.extent(ino, 3)
    assert keys.extent(ino, 8) < end <= keys.extent(ino, 9)
    start, end = keys.extent_range(ino)
    assert start <= keys.extent(ino, 0) < keys.extent(ino, (1 << 64) - 1) < end
    start, end = keys.inode_range(ino - 1)
    assert start <= keys.inode(ino) < end
    start, end = keys.xattr_range(ino)
    assert start <= keys.xattr(ino, b"user.\xff") < end


def test_keys_can_be_taken_apart() -> None:
    assert keys.dentry_name(keys.dentry(5, b"name")) == b"name"
    assert keys.inode_of(keys.extent(5, 6)) == 5
    assert keys.extent_block(keys.extent(5, 6)) == 6
    assert keys.xattr_name(keys.xattr(5, b"user.x")) == b"user.x"
    assert keys.chunk_id(keys.chunk(CHUNK)) == CHUNK
    assert keys.garbage_chunk_id(keys.garbage(7, CHUNK)) == CHUNK
    assert keys.node_number(keys.node(9)) == 9
    assert keys.session_id(keys.session("abc")) == "abc"


def test_replies_are_kept_apart_by_session_and_ordered_by_number() -> None:
    start, end = keys.reply_range("ab", 300)
    assert start <= keys.reply("ab", 1) < keys.reply("ab", 255) < keys.reply("ab", 300) < end
    assert end <= keys.reply("ab", 301)
    start, end = keys.reply_range("ab")
    assert start <= keys.reply("ab", (1 << 64) - 1) < end
    assert not start <= keys.reply("abc", 1) < end


def test_references_come_and_go(fs: Namespace) -> None:
    fs.write(lambda txn: chunk_table.add_references(txn, CHUNK, 10, (3, 1, 3), 2))
    assert chunk(fs) == ChunkRecord(10, 2, ChunkState.LIVE, 0, (1, 3))
    fs.write(lambda txn: chunk_table.drop_reference(txn, CHUNK, 50))
    assert garbage(fs) == []
    fs.write(lambda txn: chunk_table.drop_reference(txn, CHUNK, 50))
    assert chunk(fs).garbage_since_ns == 50
    assert (garbage(fs), garbage(fs, 50)) == ([CHUNK], [])
    fs.write(lambda txn: chunk_table.add_references(txn, CHUNK, 10, (2,), 1))
    assert chunk(fs) == ChunkRecord(10, 1, ChunkState.LIVE, 0, (1, 2, 3))
    assert garbage(fs) == []
    with fails(common_pb2.ERROR_CODE_INVALID):
        fs.write(lambda txn: chunk_table.add_references(txn, CHUNK, 11, (), 1))
    with fails(common_pb2.ERROR_CODE_INTERNAL):
        fs.write(lambda txn: chunk_table.drop_reference(txn, CHUNK, 50, 2))


def test_garbage_is_marked_and_removed_unless_it_is_wanted(fs: Namespace) -> None:
    fs.write(lambda txn: chunk_table.add_references(txn, CHUNK, 10, (1,), 1))
    assert fs.write(lambda txn: chunk_table.mark_deleting(txn, CHUNK)) is None
    assert not fs.write(lambda txn: chunk_table.remove(txn, CHUNK))
    fs.write(lambda txn: chunk_table.drop_reference(txn, CHUNK, 50))
    marked = fs.write(lambda txn: chunk_table.mark_deleting(txn, CHUNK))
    assert marked is not None
    assert marked.state is ChunkState.DELETING
    assert garbage(fs) == [CHUNK]
    with fails(common_pb2.ERROR_CODE_CHUNK_GONE):
        fs.write(lambda txn: chunk_table.add_references(txn, CHUNK, 10, (1,), 1))
    assert fs.write(lambda txn: chunk_table.remove(txn, CHUNK))
    assert garbage(fs) == []
    assert fs.engine.read(lambda txn: chunk_table.get_chunk(txn, CHUNK)) is None
    assert not fs.write(lambda txn: chunk_table.remove(txn, CHUNK))


def test_a_resurrected_chunk_has_its_whole_grace_time_again(fs: Namespace) -> None:
    assert fs.write(lambda txn: chunk_table.resurrect(txn, CHUNK, 90)) is None
    fs.write(lambda txn: chunk_table.put_chunk(txn, CHUNK, ChunkRecord(10, 0, ChunkState.LIVE, 50, (1, 2))))
    fs.write(lambda txn: chunk_table.mark_deleting(txn, CHUNK))
    fs.write(lambda txn: chunk_table.resurrect(txn, CHUNK, 90, (2,)))
    assert chunk(fs) == ChunkRecord(10, 0, ChunkState.LIVE, 90, (2,))
    assert (garbage(fs, 90), garbage(fs, 91)) == ([], [CHUNK])
    fs.write(lambda txn: chunk_table.add_references(txn, CHUNK, 10, (), 1))
    fs.write(lambda txn: chunk_table.resurrect(txn, CHUNK, 99))
    assert chunk(fs) == ChunkRecord(10, 1, ChunkState.LIVE, 0, (2,))
    assert garbage(fs) == []


def test_replicas_are_noted(fs: Namespace) -> None:
    assert not fs.write(lambda txn: chunk_table.add_replica(txn, CHUNK, 1))
    fs.write(lambda txn: chunk_table.add_references(txn, CHUNK, 10, (2,), 1))
    assert fs.write(lambda txn: chunk_table.add_replica(txn, CHUNK, 1))
    assert not fs.write(lambda txn: chunk_table.add_replica(txn, CHUNK, 1))
    assert chunk(fs).nodes == (1, 2)
    assert fs.write(lambda txn: chunk_table.remove_replica(txn, CHUNK, 2))
    assert not fs.write(lambda txn: chunk_table.remove_replica(txn, CHUNK, 2))
    assert chunk(fs).nodes == (1,)


def test_chunks_are_listed_in_parts(fs: Namespace) -> None:
    chunks = [bytes([number]) * 32 for number in (0, 1, 254, 255)]
    for identity in chunks:
        fs.write(lambda txn, one=identity: chunk_table.add_references(txn, one, 1, (1,), 1))  # type: ignore[misc]
    first = fs.engine.read(lambda txn: chunk_table.scan_chunks(txn, b"", 3))
    assert [identity for identity, _ in first] == chunks[:3]
    rest = fs.engine.read(lambda txn: chunk_table.scan_chunks(txn, chunks[2], 3))
    assert [identity for identity, _ in rest] == chunks[3:]


def test_inode_numbers_are_given_out_once(fs: Namespace) -> None:
    allocator = ids.IdAllocator()
    assert ids.IdAllocator().wants_refill
    with pytest.raises(IndexError):
        allocator.take()
    allocator.add(fs.write(ids.reserve_inode_numbers))
    allocator.add(fs.write(ids.reserve_inode_numbers))
    assert not allocator.wants_refill
    taken = [allocator.take() for _ in range(2 * ID_RANGE)]
    assert taken == list(range(ROOT_INO + 1, ROOT_INO + 1 + 2 * ID_RANGE))
    assert allocator.remaining == 0


def test_formatting_again_keeps_the_file_system(fs: Namespace) -> None:
    ino = fs.create(b"f")
    assert fs.write(lambda txn: mkfs.format_file_system(txn, "another", 5)) == "cluster"
    assert fs.engine.read(mkfs.cluster_id) == "cluster"
    assert fs.find(b"f") == ino
    root = fs.attr(ROOT)
    assert (root.mode, root.uid, root.gid, root.nlink, root.parent) == (0o40755, 0, 0, 2, ROOT)
    assert fs.engine.read(usage.read).inodes == 2


def test_a_new_file_system_belongs_to_who_makes_it() -> None:
    """Its root was root's, and who ran `make up` as somebody else could not write into the mount."""
    engine = MemoryEngine()
    [made] = engine.commit(
        [Operation(lambda txn: mkfs.format_file_system(txn, "cluster", 5, uid=1000, gid=100))]
    )
    assert made.value == "cluster"
    root = engine.read(lambda txn: tree.load(txn, ROOT))
    assert (root.uid, root.gid) == (1000, 100)


def test_another_format_is_refused(fs: Namespace) -> None:
    fs.write(lambda txn: txn.put(keys.setting("format"), b"99"))
    with fails(common_pb2.ERROR_CODE_NOT_SUPPORTED):
        fs.write(lambda txn: mkfs.format_file_system(txn, "another", 5))
