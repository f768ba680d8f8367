"""replace_extents: what takes the place of what, and what is refused."""

import pytest

from cairnfs.base.limits import BLOCK_BYTES, SLICES_MAX
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.namespace.harness import Namespace, fails
from tests.unit.namespace.test_data_operations import INVALID, fragmented, references


@pytest.fixture
def fs() -> Namespace:
    return Namespace()


def compaction(fs: Namespace, ino: int, block: int) -> pb.ReplaceExtents:
    """A request to make one slice of all that a block holds."""
    old = fs.run(pb.GetExtents(ino=ino, offset=block * BLOCK_BYTES, length=1)).slices
    start, end = old[0].offset, old[-1].offset + old[-1].length
    stored = fs.store(fs.content(ino)[start:end])
    request = pb.ReplaceExtents(ino=ino, block=block, expected=old, chunks=[stored])
    request.slices.add(offset=start, length=end - start, chunk_id=stored.chunk_id)
    return request


@pytest.mark.parametrize("slices", [40, SLICES_MAX])
def test_compaction_keeps_the_content(fs: Namespace, slices: int) -> None:
    ino = fragmented(fs, b"f", slices, blocks=2)
    content, before = fs.content(ino), fs.attr(ino)
    attr = fs.run(compaction(fs, ino, 1)).attr
    assert (fs.steps > 1) == (slices == SLICES_MAX)
    assert fs.content(ino) == content
    assert (attr.mtime_ns, attr.ctime_ns, attr.allocated_bytes) == (
        before.mtime_ns,
        before.ctime_ns,
        before.allocated_bytes,
    )
    assert len(fs.slices(ino)) == slices + 1
    assert sum(references(fs).values()) == slices + 1


def test_compaction_of_a_changed_block_conflicts(fs: Namespace) -> None:
    ino = fragmented(fs, b"f", 10)
    request = compaction(fs, ino, 0)
    fs.commit(ino, 0, b"new")
    with fails(common_pb2.ERROR_CODE_CONFLICT):
        fs.run(request)
    request = compaction(fs, ino, 0)
    request.slices[0].offset += BLOCK_BYTES
    with fails(INVALID):
        fs.run(request)


def test_compaction_of_a_part_does_not_mind_what_is_written_elsewhere(fs: Namespace) -> None:
    ino = fragmented(fs, b"f", 10)
    old = fs.slices(ino)[3:7]
    start, end = old[0].offset, old[-1].offset + old[-1].length
    stored = fs.store(fs.content(ino)[start:end])
    request = pb.ReplaceExtents(ino=ino, block=0, expected=old, chunks=[stored])
    request.slices.add(offset=start, length=end - start, chunk_id=stored.chunk_id)
    fs.commit(ino, 0, b"new")
    fs.commit(ino, fs.attr(ino).size, b"appended")
    content, count = fs.content(ino), len(fs.slices(ino))
    fs.run(request)
    assert fs.content(ino) == content
    assert len(fs.slices(ino)) == count - 3
    with fails(common_pb2.ERROR_CODE_CONFLICT):
        fs.run(request)


def test_compaction_replaces_bytes_by_the_same_bytes_only(fs: Namespace) -> None:
    ino = fragmented(fs, b"f", 10)
    request = compaction(fs, ino, 0)
    request.slices[0].length -= 1
    with fails(INVALID):
        fs.run(request)
    del request.slices[:]
    with fails(INVALID):
        fs.run(request)
