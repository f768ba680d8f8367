"""replace_extents: compaction. Other slices with the same content take the place of some of a block's slices.

Only the part of the block from the first to the last of them matters, so that whoever writes elsewhere in the
block meanwhile, as one that appends does, is not in the way.
"""

from collections.abc import Iterable

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, COMMIT_SLICES_MAX
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.extents import ExtentEditor, overlapping, read_block
from cairnfs.coordinator.namespace.operation import Env, Footprint, MoreSteps, OperationSpec, Touch
from cairnfs.coordinator.namespace.slices import ChunkLengths, from_message, holders_of, to_message
from cairnfs.coordinator.records import BlockSlice
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def footprint(_txn: ReadTransaction, op: pb.ReplaceExtents) -> Footprint:
    """The whole inode: its content stays, but others must not go on using the old extents."""
    return Footprint((Touch(op.ino),))


def run(txn: Transaction, op: pb.ReplaceExtents, env: Env) -> pb.CommitWriteReply | MoreSteps:
    """Replace slices of one block if they, and no others between them, are `expected`; times do not change.

    Raises CairnError CONFLICT, NOT_FOUND, IS_DIRECTORY, INVALID, CHUNK_GONE, OVERLOADED.
    """
    tree.require_cover(env, op.ino)
    inode = tree.load_regular(txn, op.ino)
    new = _new_slices(txn, op, inode.size)
    start, end = new[0].offset, new[-1].end
    if not _agree(op, overlapping(read_block(txn, op.ino, op.block), start, end)):
        raise CairnError(common_pb2.ERROR_CODE_CONFLICT, f"block {op.block} of inode {op.ino} changed")
    editor = ExtentEditor(txn, op.ino)
    reached = editor.replace(op.block, start, end, new)
    editor.finish(env.now_ns, holders_of(op.chunks))
    usage.change(txn, inode.realm, allocated_bytes=editor.allocated_delta, forced=True)
    inode = inode._replace(
        allocated_bytes=inode.allocated_bytes + editor.allocated_delta, change=inode.change + 1
    )
    tree.save(txn, op.ino, inode)
    if reached < end:
        return MoreSteps(_remaining(txn, op, start, end))
    return pb.CommitWriteReply(attr=inode.to_attr(op.ino), most_slices=editor.most_slices)


def _agree(op: pb.ReplaceExtents, current: list[BlockSlice]) -> bool:
    start = op.block * BLOCK_BYTES
    expected = [(one.offset, one.length, one.chunk_offset, one.chunk_id) for one in op.expected]
    return expected == [(start + one.offset, one.length, one.chunk_offset, one.chunk_id) for one in current]


def _new_slices(txn: Transaction, op: pb.ReplaceExtents, size: int) -> list[BlockSlice]:
    """The slices asked for, checked to be sorted, disjoint, of this block, inside the file, and of the bytes
    that the expected ones are of.
    """
    if len(op.slices) > COMMIT_SLICES_MAX:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"{len(op.slices)} slices")
    lengths = ChunkLengths(txn, op.chunks)
    slices: list[BlockSlice] = []
    end = 0
    for message in op.slices:
        block, one = from_message(message, lengths)
        if block != op.block or one.offset < end or message.offset + message.length > size:
            raise CairnError(common_pb2.ERROR_CODE_INVALID, f"slice {message.offset}+{message.length}")
        slices.append(one)
        end = one.end
    if not slices or _covered(op.slices) != _covered(op.expected):
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "the new slices are not of the same bytes")
    return slices


def _covered(slices: Iterable[common_pb2.Slice]) -> list[tuple[int, int]]:
    """From where to where sorted slices reach without a hole."""
    covered: list[tuple[int, int]] = []
    for one in slices:
        start = one.offset
        if covered and covered[-1][1] == start:
            start, _ = covered.pop()
        covered.append((start, one.offset + one.length))
    return covered


def _remaining(txn: Transaction, op: pb.ReplaceExtents, start: int, end: int) -> pb.ReplaceExtents:
    """The same request against what the block holds now; what is replaced already costs it little."""
    remaining = pb.ReplaceExtents()
    remaining.CopyFrom(op)
    del remaining.expected[:]
    for one in overlapping(read_block(txn, op.ino, op.block), start, end):
        remaining.expected.append(to_message(op.block, one))
    return remaining


SPEC = OperationSpec("replace_extents", "commit_write", run, footprint)
