"""commit_write, truncation, fallocate, copy_range, open: slices, counts, steps, errors."""

import random

import pytest

from cairnfs.base.limits import (
    BLOCK_BYTES,
    COMMIT_SLICES_MAX,
    EXTENT_BLOCKS_PER_STEP,
    EXTENTS_REPLY_SLICES_MAX,
    FILE_SIZE_MAX_BYTES,
    OPEN_EXTENT_BLOCKS,
    SLICES_MAX,
)
from cairnfs.coordinator import chunk_table, keys, records
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.truncate import truncate_step
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.namespace.harness import NODES, ROOT, Namespace, fails

INVALID = common_pb2.ERROR_CODE_INVALID
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


@pytest.fixture
def fs() -> Namespace:
    return Namespace()


def references(fs: Namespace) -> dict[bytes, int]:
    """References of every chunk in the table."""
    found = fs.engine.read(lambda txn: chunk_table.scan_chunks(txn, b"", 100_000))
    return {identity: record.references for identity, record in found}


def fragmented(fs: Namespace, name: bytes, slices: int, *, length: int = 2, blocks: int = 1) -> int:
    """A file with `slices` slices of distinct chunks in each of its first `blocks` blocks."""
    ino = fs.create(name)
    for block in range(blocks):
        for first in range(0, slices, COMMIT_SLICES_MAX):
            request = pb.CommitWrite(ino=ino)
            for number in range(first, min(first + COMMIT_SLICES_MAX, slices)):
                stored = fs.store(b"%s-%d-%d" % (name, block, number))
                request.chunks.append(stored)
                offset = block * BLOCK_BYTES + number * length
                request.slices.add(offset=offset, length=length, chunk_id=stored.chunk_id)
            fs.run(request)
    return ino


def test_committed_bytes_are_the_content(fs: Namespace) -> None:
    ino = fs.create(b"f")
    reply = fs.commit(ino, 0, b"hello world")
    assert (reply.attr.size, reply.attr.allocated_bytes, reply.most_slices) == (11, 11, 1)
    assert reply.attr.mtime_ns == reply.attr.ctime_ns == fs.now_ns
    fs.commit(ino, 6, b"there")
    assert fs.content(ino) == b"hello there"
    [first, second] = fs.slices(ino)
    assert (first.offset, first.length, list(first.nodes), first.chunk_length) == (0, 6, list(NODES), 11)
    assert (second.offset, second.chunk_offset) == (6, 0)


def test_a_write_in_the_middle_cuts_what_is_there(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"abcdefgh")
    fs.commit(ino, 3, b"XY")
    assert fs.content(ino) == b"abcXYfgh"
    assert sorted(references(fs).values()) == [1, 2]
    fs.commit(ino, 0, b"01234567")
    assert fs.content(ino) == b"01234567"
    assert sorted(references(fs).values()) == [0, 0, 1]
    assert fs.attr(ino).allocated_bytes == fs.engine.read(usage.read).allocated_bytes == 8


def test_random_writes_match_a_byte_array(fs: Namespace) -> None:
    ino, model, chance = fs.create(b"f"), bytearray(), random.Random(7)
    base = BLOCK_BYTES - 60
    for number in range(120):
        offset, data = chance.randrange(120), bytes([number + 1]) * chance.randrange(1, 60)
        fs.commit(ino, base + offset, data)
        model.extend(bytes(max(0, offset + len(data) - len(model))))
        model[offset : offset + len(data)] = data
    assert fs.content(ino)[base:] == model
    assert fs.attr(ino).allocated_bytes == sum(one.length for one in fs.slices(ino))


def test_later_slices_of_one_commit_win(fs: Namespace) -> None:
    ino, first, second = fs.create(b"f"), fs.store(b"first"), fs.store(b"second")
    request = pb.CommitWrite(ino=ino, chunks=[first, second])
    request.slices.add(offset=0, length=5, chunk_id=first.chunk_id)
    request.slices.add(offset=2, length=6, chunk_id=second.chunk_id)
    fs.run(request)
    assert fs.content(ino) == b"fisecond"


def test_the_same_commit_twice_changes_no_count(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"abc")
    before = references(fs)
    fs.commit(ino, 0, b"abc")
    assert references(fs) == before
    assert fs.attr(ino).allocated_bytes == 3


def test_equal_chunks_are_counted_once_per_slice(fs: Namespace) -> None:
    ino = fs.create(b"f")
    for offset in (0, 10, 20):
        fs.commit(ino, offset, b"same")
    assert list(references(fs).values()) == [3]
    fs.run(pb.SetAttr(ino=ino, size=0))
    [(_, record)] = fs.engine.read(lambda txn: chunk_table.scan_garbage(txn, fs.now_ns + 1, 10))
    assert (record.references, record.garbage_since_ns) == (0, fs.now_ns)
    fs.commit(ino, 0, b"same")
    assert fs.engine.read(lambda txn: chunk_table.scan_garbage(txn, fs.now_ns + 1, 10)) == []


def test_neighbours_in_file_and_chunk_become_one_slice(fs: Namespace) -> None:
    ino, stored = fs.create(b"f"), fs.store(b"0123456789")
    request = pb.CommitWrite(ino=ino, chunks=[stored])
    for offset in (0, 6, 3):
        request.slices.add(offset=offset, length=3, chunk_id=stored.chunk_id, chunk_offset=offset)
    assert fs.run(request).most_slices == 1
    assert [one.length for one in fs.slices(ino)] == [9]
    assert list(references(fs).values()) == [1]


def test_a_commit_names_stored_chunks(fs: Namespace) -> None:
    ino, unknown = fs.create(b"f"), fs.store(b"unknown")
    request = pb.CommitWrite(ino=ino)
    request.slices.add(offset=0, length=7, chunk_id=unknown.chunk_id)
    with fails(common_pb2.ERROR_CODE_CHUNK_GONE):
        fs.run(request)
    request.chunks.add(chunk_id=unknown.chunk_id, length=7)
    with fails(common_pb2.ERROR_CODE_CHUNK_GONE):
        fs.run(request)
    fs.commit(ino, 0, b"unknown")
    fs.run(pb.SetAttr(ino=ino, size=0))
    fs.run(request)
    fs.run(pb.SetAttr(ino=ino, size=0))
    fs.write(lambda txn: chunk_table.mark_deleting(txn, unknown.chunk_id))
    with fails(common_pb2.ERROR_CODE_CHUNK_GONE):
        fs.commit(ino, 0, b"unknown")
    assert fs.attr(ino).size == 0


@pytest.mark.parametrize(
    ("offset", "length", "chunk_offset", "identity"),
    [
        (BLOCK_BYTES - 2, 4, 0, None),
        (0, 5, 4, None),
        (0, 9, 0, None),
        (0, 0, 0, None),
        (0, 4, 0, b"short"),
    ],
)
def test_slices_keep_to_their_block_and_chunk(
    fs: Namespace, offset: int, length: int, chunk_offset: int, identity: bytes | None
) -> None:
    ino, stored = fs.create(b"f"), fs.store(b"12345678")
    request = pb.CommitWrite(ino=ino, chunks=[stored])
    request.slices.add(
        offset=offset, length=length, chunk_offset=chunk_offset, chunk_id=identity or stored.chunk_id
    )
    with fails(INVALID):
        fs.run(request)


def test_commits_are_bounded(fs: Namespace) -> None:
    ino, stored = fs.create(b"f"), fs.store(b"x")
    request = pb.CommitWrite(ino=ino, chunks=[stored])
    for offset in range(COMMIT_SLICES_MAX + 1):
        request.slices.add(offset=offset * 2, length=1, chunk_id=stored.chunk_id)
    with fails(INVALID):
        fs.run(request)
    with fails(common_pb2.ERROR_CODE_FILE_TOO_LARGE):
        fs.run(pb.CommitWrite(ino=ino, size=FILE_SIZE_MAX_BYTES + 1))
    with fails(common_pb2.ERROR_CODE_IS_DIRECTORY):
        fs.run(pb.CommitWrite(ino=ROOT, size=1))
    full = fragmented(fs, b"full", SLICES_MAX)
    with fails(common_pb2.ERROR_CODE_OVERLOADED):
        fs.commit(full, 3 * SLICES_MAX, b"one more")
    assert fs.commit(full, 0, b"00").most_slices == SLICES_MAX


def test_a_commit_sets_size_and_times(fs: Namespace) -> None:
    ino = fs.create(b"f")
    attr = fs.run(pb.CommitWrite(ino=ino, size=10, mtime_ns=5)).attr
    assert (attr.size, attr.mtime_ns, attr.ctime_ns) == (10, 5, fs.now_ns)
    assert fs.run(pb.CommitWrite(ino=ino, size=3)).attr.size == 10
    before = fs.attr(ino).ctime_ns
    assert fs.run(pb.CommitWrite(ino=ino, ctime_ns=7)).attr.ctime_ns == before
    assert fs.run(pb.CommitWrite(ino=ino, ctime_ns=before + 7)).attr.ctime_ns == before + 7


def test_a_commit_may_depend_on_the_size(fs: Namespace) -> None:
    ino = fs.create(b"f")
    assert fs.run(pb.CommitWrite(ino=ino, size=4, if_size=0)).attr.size == 4
    with fails(common_pb2.ERROR_CODE_CONFLICT):
        fs.run(pb.CommitWrite(ino=ino, size=8, if_size=0))


def test_an_orphan_still_takes_commits(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.run(pb.Unlink(parent=ROOT, name=b"f"))
    fs.commit(ino, 0, b"temporary")
    assert fs.content(ino) == b"temporary"
    fs.reap()
    assert list(references(fs).values()) == [0]


def test_truncation_cuts_and_growth_reads_as_zeros(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"abcdefgh")
    attr = fs.run(pb.SetAttr(ino=ino, size=3)).attr
    assert (attr.size, attr.allocated_bytes, attr.mtime_ns) == (3, 3, fs.now_ns)
    fs.run(pb.SetAttr(ino=ino, size=6))
    assert fs.content(ino) == b"abc\0\0\0"
    assert fs.run(pb.SetAttr(ino=ino, size=0, mtime_ns=9)).attr.mtime_ns == 9
    assert list(references(fs).values()) == [0]


def test_open_truncate_empties_the_file(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"abc")
    assert fs.run(pb.Open(ino=ino, write=True)).attr.size == 3
    reply = fs.run(pb.Open(ino=ino, write=True, truncate=True))
    assert (reply.attr.size, reply.attr.mtime_ns) == (0, fs.now_ns)
    with fails(common_pb2.ERROR_CODE_IS_DIRECTORY):
        fs.run(pb.Open(ino=ROOT, write=True))
    assert fs.run(pb.Open(ino=ROOT)).attr.ino == ROOT


def test_open_sends_the_first_extents(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"abc")
    fs.commit(ino, OPEN_EXTENT_BLOCKS * BLOCK_BYTES, b"far away")
    reply = fs.run(pb.Open(ino=ino, want_extents=True))
    assert reply.extents.length == OPEN_EXTENT_BLOCKS * BLOCK_BYTES
    assert [one.length for one in reply.extents.slices] == [3]
    assert not fs.run(pb.Open(ino=ino)).HasField("extents")


def test_extents_come_in_whole_blocks(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, BLOCK_BYTES + 10, b"abc")
    reply = fs.run(pb.GetExtents(ino=ino, offset=BLOCK_BYTES + 5, length=1))
    assert (reply.offset, reply.length) == (BLOCK_BYTES, BLOCK_BYTES)
    assert [one.offset for one in reply.slices] == [BLOCK_BYTES + 10]
    assert fs.run(pb.GetExtents(ino=ino, offset=3)).length == BLOCK_BYTES


def test_a_reply_with_too_many_slices_covers_less(fs: Namespace) -> None:
    ino = fragmented(fs, b"f", SLICES_MAX, blocks=11)
    reply = fs.run(pb.GetExtents(ino=ino, offset=0, length=11 * BLOCK_BYTES))
    assert reply.length == -(-EXTENTS_REPLY_SLICES_MAX // SLICES_MAX) * BLOCK_BYTES < 11 * BLOCK_BYTES
    assert len(fs.slices(ino)) == 11 * SLICES_MAX


def test_a_big_file_shrinks_in_steps_from_its_end(fs: Namespace) -> None:
    ino = fragmented(fs, b"f", SLICES_MAX, blocks=2)
    whole = fs.content(ino)
    assert not fs.write(lambda txn: truncate_step(txn, ino, 5, fs.now_ns))
    between = fs.attr(ino).size
    assert 5 < between < len(whole)
    assert fs.content(ino) == whole[:between]
    fs.run(pb.SetAttr(ino=ino, size=5))
    assert fs.steps > 1
    assert fs.content(ino) == whole[:5]
    assert sum(references(fs).values()) == 3


def test_a_file_of_many_blocks_goes_in_steps(fs: Namespace) -> None:
    ino = fs.create(b"f")
    for block in range(EXTENT_BLOCKS_PER_STEP + 1):
        fs.commit(ino, block * BLOCK_BYTES, b"same")
    fs.run(pb.Open(ino=ino, truncate=True))
    assert fs.steps == 2
    assert list(references(fs).values()) == [0]
    assert fs.attr(ino).allocated_bytes == fs.engine.read(usage.read).allocated_bytes == 0


def test_a_commit_over_many_slices_goes_in_steps(fs: Namespace) -> None:
    ino = fragmented(fs, b"f", SLICES_MAX, blocks=3)
    request = pb.CommitWrite(ino=ino)
    for block in range(3):
        stored = fs.store(b"%d" % block * 2 * SLICES_MAX)
        request.chunks.append(stored)
        request.slices.add(offset=block * BLOCK_BYTES, length=2 * SLICES_MAX, chunk_id=stored.chunk_id)
    fs.run(request)
    assert fs.steps > 3
    assert [(one.length, one.chunk_offset) for one in fs.slices(ino)] == [(2 * SLICES_MAX, 0)] * 3
    assert sum(references(fs).values()) == 3


@pytest.mark.parametrize("mode", [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE])
def test_holes_are_punched(fs: Namespace, mode: int) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"abcdefgh")
    attr = fs.run(pb.Fallocate(ino=ino, offset=2, length=3, mode=mode)).attr
    assert (attr.size, attr.allocated_bytes, attr.mtime_ns) == (8, 5, fs.now_ns)
    assert fs.content(ino) == b"ab\0\0\0fgh"
    assert fs.run(pb.Fallocate(ino=ino, offset=6, length=100, mode=mode)).attr.size == 8
    assert fs.content(ino) == b"ab\0\0\0f\0\0"


def test_allocation_only_makes_the_file_longer(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"abc")
    assert fs.run(pb.Fallocate(ino=ino, offset=1, length=9)).attr.size == 10
    assert fs.run(pb.Fallocate(ino=ino, offset=1, length=90, mode=KEEP_SIZE)).attr.size == 10
    assert fs.run(pb.Fallocate(ino=ino, offset=2, length=10, mode=ZERO_RANGE)).attr.size == 12
    assert fs.content(ino) == b"ab" + bytes(10)


def test_punching_goes_in_steps(fs: Namespace) -> None:
    ino = fragmented(fs, b"f", SLICES_MAX, blocks=2)
    mode = PUNCH_HOLE | KEEP_SIZE
    fs.run(pb.Fallocate(ino=ino, offset=1, length=BLOCK_BYTES + 2 * SLICES_MAX - 2, mode=mode))
    assert fs.steps > 1
    assert [one.length for one in fs.slices(ino)] == [1, 1]
    assert sum(references(fs).values()) == 2


def test_fallocate_refuses_what_it_cannot_do(fs: Namespace) -> None:
    ino = fs.create(b"f")
    for mode in (PUNCH_HOLE, 8, 32, 64):
        with fails(common_pb2.ERROR_CODE_NOT_SUPPORTED):
            fs.run(pb.Fallocate(ino=ino, length=1, mode=mode))
    with fails(INVALID):
        fs.run(pb.Fallocate(ino=ino, length=0))
    with fails(common_pb2.ERROR_CODE_FILE_TOO_LARGE):
        fs.run(pb.Fallocate(ino=ino, offset=FILE_SIZE_MAX_BYTES, length=1))
    with fails(common_pb2.ERROR_CODE_IS_DIRECTORY):
        fs.run(pb.Fallocate(ino=ROOT, length=1))


@pytest.mark.parametrize("source_offset", [0, 5, BLOCK_BYTES - 7])
@pytest.mark.parametrize("target_offset", [0, 3, BLOCK_BYTES - 4, 2 * BLOCK_BYTES])
def test_copies_share_chunks_at_any_alignment(fs: Namespace, source_offset: int, target_offset: int) -> None:
    source, target = fs.create(b"s"), fs.create(b"t")
    fs.commit(source, source_offset, b"0123456789" * 2)
    fs.run(pb.Fallocate(ino=source, offset=source_offset + 4, length=2, mode=PUNCH_HOLE | KEEP_SIZE))
    fs.commit(target, 0, b"old")
    length = 14
    expected = bytearray(fs.content(target).ljust(target_offset + length, b"\0"))
    expected[target_offset : target_offset + length] = fs.content(source)[source_offset + 2 :][:length]
    reply = fs.run(
        pb.CopyRange(
            source=source,
            source_offset=source_offset + 2,
            target=target,
            target_offset=target_offset,
            length=length,
        )
    )
    assert (reply.copied, reply.target.size) == (length, len(expected))
    assert reply.target.mtime_ns == fs.now_ns
    assert fs.content(target) == expected
    held = sum(one.length for one in fs.slices(target))
    assert fs.attr(target).allocated_bytes == held
    assert sum(references(fs).values()) == len(fs.slices(source)) + len(fs.slices(target))


def test_a_copy_stops_at_the_end_of_the_source(fs: Namespace) -> None:
    source, target = fs.create(b"s"), fs.create(b"t")
    fs.commit(source, 0, b"abcdef")
    copy = pb.CopyRange(source=source, source_offset=4, target=target, length=100)
    assert fs.run(copy).copied == 2
    assert fs.content(target) == b"ef"
    copy.source_offset = 6
    assert fs.run(copy).copied == 0


def test_a_copy_inside_one_file_must_not_overlap(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"abcdef")
    with fails(INVALID):
        fs.run(pb.CopyRange(source=ino, target=ino, target_offset=5, length=6))
    assert fs.run(pb.CopyRange(source=ino, target=ino, target_offset=6, length=6)).copied == 6
    assert fs.content(ino) == b"abcdefabcdef"


def test_long_copies_are_short(fs: Namespace) -> None:
    source, target = fs.create(b"s"), fs.create(b"t")
    fs.run(pb.SetAttr(ino=source, size=(EXTENT_BLOCKS_PER_STEP + 5) * BLOCK_BYTES))
    copy = pb.CopyRange(source=source, target=target, length=1 << 60)
    assert fs.run(copy).copied == EXTENT_BLOCKS_PER_STEP * BLOCK_BYTES
    dense = fragmented(fs, b"dense", SLICES_MAX, blocks=2)
    copied = fs.run(pb.CopyRange(source=dense, target=target, length=1 << 60)).copied
    assert 0 < copied < BLOCK_BYTES
    with fails(common_pb2.ERROR_CODE_FILE_TOO_LARGE):
        fs.run(pb.CopyRange(source=dense, target=target, target_offset=FILE_SIZE_MAX_BYTES - 1, length=9))


@pytest.mark.parametrize("seed", range(8))
def test_slices_laid_together_give_what_they_give_one_by_one(fs: Namespace, seed: int) -> None:
    dice = random.Random(seed)
    together, single = fs.create(b"together"), fs.create(b"single")
    for turn in range(12):
        stored = [fs.store(b"%d-%d-%d" % (seed, turn, number) * 9) for number in range(2)]
        slices, offset = [], BLOCK_BYTES - 90
        while (offset := offset + dice.randrange(1, 12)) < BLOCK_BYTES + 90:
            chunk, length = dice.choice(stored), dice.randrange(1, 9)
            length = min(length, BLOCK_BYTES - offset) if offset < BLOCK_BYTES else length
            place = dice.choice([0, offset % 9])  # some continue each other
            slices.append(
                common_pb2.Slice(offset=offset, length=length, chunk_id=chunk.chunk_id, chunk_offset=place)
            )
            offset += length - dice.choice([0, 1])
        fs.run(pb.CommitWrite(ino=together, chunks=stored, slices=slices))
        for one in slices:
            fs.run(pb.CommitWrite(ino=single, chunks=stored, slices=[one]))
        assert fs.slices(together) == fs.slices(single)
        assert fs.attr(together).allocated_bytes == fs.attr(single).allocated_bytes
    for count in references(fs).values():
        assert count % 2 == 0
    fs.run(pb.SetAttr(ino=together, size=0))
    fs.run(pb.SetAttr(ino=single, size=0))
    assert set(references(fs).values()) == {0}


def test_a_write_that_meets_damaged_counts_changes_nothing(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"abc")
    [identity] = references(fs)
    fs.write(lambda txn: txn.delete(keys.chunk(identity)))
    with fails(common_pb2.ERROR_CODE_INTERNAL):
        fs.run(pb.SetAttr(ino=ino, size=0))
    assert fs.engine.read(lambda txn: tree.load(txn, ino)).size == 3


def test_records_survive_coding() -> None:
    inode = records.Inode(0o100644, 1, 2, 3, 4, (1 << 63) - 1, 6, -7, 8, 9, 1 << 63, 11, 12, 13)
    assert records.Inode.decode(inode.encode()) == inode
    chunk = records.ChunkRecord(5, 1 << 40, records.ChunkState.DELETING, 7, (1, 1 << 31))
    assert records.ChunkRecord.decode(chunk.encode()) == chunk
    slices = [records.BlockSlice(0, 5, 7, bytes(range(32)), 12), records.BlockSlice(9, 1, 0, b"x" * 32, 1)]
    assert records.decode_slices(records.encode_slices(slices)) == slices
    entry = records.Dentry(1 << 60, 8)
    assert records.Dentry.decode(entry.encode()) == entry


def test_a_listing_tells_where_the_bytes_of_small_files_are(fs: Namespace) -> None:
    small, hole, large = fs.create(b"small"), fs.create(b"hole"), fs.create(b"large")
    fragmented(fs, b"fragmented", 9)
    fs.mkdir(b"directory")
    fs.commit(small, 0, b"some bytes")
    fs.commit(large, 0, bytes(5000))
    fs.run(pb.SetAttr(ino=hole, size=100))
    reply: pb.ReadDirReply = fs.run(pb.ReadDir(ino=ROOT, small_file_bytes=4096))
    located = {entry.name: list(entry.slices) for entry in reply.entries if entry.located}
    assert located == {b"small": fs.slices(small), b"hole": []}
    plain: pb.ReadDirReply = fs.run(pb.ReadDir(ino=ROOT))
    assert not any(entry.located or entry.slices for entry in plain.entries)
