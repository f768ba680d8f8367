"""commit_write: make chunks that were stored part of a file."""

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, COMMIT_SLICES_MAX, FILE_SIZE_MAX_BYTES
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.extents import ExtentEditor
from cairnfs.coordinator.namespace.operation import Env, Footprint, MoreSteps, OperationSpec, Touch
from cairnfs.coordinator.namespace.slices import ChunkLengths, from_message, holders_of, to_message
from cairnfs.coordinator.records import BlockSlice, Inode
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def footprint(_txn: ReadTransaction, op: pb.CommitWrite) -> Footprint:
    """The whole inode."""
    return Footprint((Touch(op.ino),))


def run(txn: Transaction, op: pb.CommitWrite, env: Env) -> pb.CommitWriteReply | MoreSteps:
    """Lay the slices over what is there, in their order. The file may be an orphan.

    Raises CairnError NOT_FOUND, IS_DIRECTORY, INVALID (no regular file, a slice that crosses a block or does
    not fit its chunk), FILE_TOO_LARGE, CHUNK_GONE, CONFLICT (`if_size`), OVERLOADED (compact a block first),
    QUOTA.
    """
    tree.require_cover(env, op.ino)
    inode = tree.load_regular(txn, op.ino)
    if op.HasField("if_size") and op.if_size != inode.size:
        raise CairnError(common_pb2.ERROR_CODE_CONFLICT, f"size {inode.size}, not {op.if_size}")
    if len(op.slices) > COMMIT_SLICES_MAX or len(op.chunks) > COMMIT_SLICES_MAX:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"{len(op.slices)} slices, {len(op.chunks)} chunks")
    if op.size > FILE_SIZE_MAX_BYTES:
        raise CairnError(common_pb2.ERROR_CODE_FILE_TOO_LARGE, str(op.size))
    lengths = ChunkLengths(txn, op.chunks)
    slices = [from_message(one, lengths) for one in op.slices]
    editor = ExtentEditor(txn, op.ino)
    size, rest = _lay(editor, slices, inode.size)
    editor.finish(env.now_ns, holders_of(op.chunks))
    usage.change(txn, inode.realm, allocated_bytes=editor.allocated_delta, forced=env.forced)
    if not rest:
        size = max(size, op.size)
    inode = _committed(inode, op, env, size, editor.allocated_delta)
    tree.save(txn, op.ino, inode)
    if rest:
        return MoreSteps(_remaining(op, rest))
    return pb.CommitWriteReply(attr=inode.to_attr(op.ino), most_slices=editor.most_slices)


def _lay(
    editor: ExtentEditor, slices: list[tuple[int, BlockSlice]], size: int
) -> tuple[int, list[tuple[int, BlockSlice]]]:
    """Returns the size that the file reaches, and the slices for which this transaction had no room."""
    index = 0
    while index < len(slices):
        block, one = slices[index]
        row = _row(slices, index)
        done = editor.lay(block, row) if len(row) > 1 else 0
        if done:
            size = max(size, block * BLOCK_BYTES + row[-1].end)
            index += done
            continue
        reached = editor.replace(block, one.offset, one.end, [one])
        if reached > one.offset:
            size = max(size, block * BLOCK_BYTES + reached)
        if reached < one.end:
            return size, [(block, one.cut(reached, one.end)), *slices[index + 1 :]]
        index += 1
    return size, []


def _row(slices: list[tuple[int, BlockSlice]], index: int) -> list[BlockSlice]:
    """From `index` on, the slices of one block that follow each other without overlapping."""
    block, last = slices[index]
    row = [last]
    for other, one in slices[index + 1 :]:
        if other != block or one.offset < last.end:
            break
        row.append(one)
        last = one
    return row


def _committed(inode: Inode, op: pb.CommitWrite, env: Env, size: int, allocated_delta: int) -> Inode:
    return inode._replace(
        size=size,
        allocated_bytes=inode.allocated_bytes + allocated_delta,
        mtime_ns=op.mtime_ns or env.now_ns,
        ctime_ns=max(inode.ctime_ns, op.ctime_ns) if op.ctime_ns else env.now_ns,
        change=inode.change + 1,
    )


def _remaining(op: pb.CommitWrite, rest: list[tuple[int, BlockSlice]]) -> pb.CommitWrite:
    remaining = pb.CommitWrite()
    remaining.CopyFrom(op)
    remaining.ClearField("if_size")
    del remaining.slices[:]
    remaining.slices.extend(to_message(block, one) for block, one in rest)
    return remaining


SPEC = OperationSpec("commit_write", "commit_write", run, footprint)
