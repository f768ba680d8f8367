"""copy_range: bytes of one file appear in another by reference; no data moves."""

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, EXTENT_BLOCKS_PER_STEP, FILE_SIZE_MAX_BYTES
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.extents import ExtentEditor, overlapping, read_block
from cairnfs.coordinator.namespace.operation import Env, Footprint, OperationSpec, Touch
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def footprint(_txn: ReadTransaction, op: pb.CopyRange) -> Footprint:
    """The target as a whole; the source so that what is written there is sent first."""
    if op.source == op.target:
        return Footprint((Touch(op.target),))
    return Footprint((Touch(op.target), Touch(op.source, attributes_only=True)))


def run(txn: Transaction, op: pb.CopyRange, env: Env) -> pb.CopyRangeReply:
    """Copy as copy_file_range(2): up to the source's end, holes as holes, the target growing as needed.

    One operation copies at most EXTENT_BLOCKS_PER_STEP blocks, and as much as one transaction holds; the
    caller asks again for the rest. Raises CairnError NOT_FOUND, IS_DIRECTORY, INVALID (no regular file, or
    ranges of one file that overlap), FILE_TOO_LARGE, OVERLOADED, QUOTA.
    """
    tree.require_cover(env, op.target)
    tree.require_cover(env, op.source)
    source = tree.load_regular(txn, op.source)
    target = tree.load_regular(txn, op.target)
    length = max(0, min(op.length, source.size - op.source_offset))
    if op.source == op.target and abs(op.source_offset - op.target_offset) < length:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "the ranges overlap")
    if op.target_offset + length > FILE_SIZE_MAX_BYTES:
        raise CairnError(common_pb2.ERROR_CODE_FILE_TOO_LARGE, str(op.target_offset + length))
    if length == 0:
        return pb.CopyRangeReply(copied=0, target=target.to_attr(op.target))
    editor = ExtentEditor(txn, op.target)
    copied = _copy(editor, txn, op, length)
    editor.finish(env.now_ns)
    usage.change(txn, target.realm, allocated_bytes=editor.allocated_delta)
    target = tree.content_changed(target, env.now_ns)._replace(
        size=max(target.size, op.target_offset + copied),
        allocated_bytes=target.allocated_bytes + editor.allocated_delta,
    )
    tree.save(txn, op.target, target)
    return pb.CopyRangeReply(copied=copied, target=target.to_attr(op.target))


def _copy(editor: ExtentEditor, txn: Transaction, op: pb.CopyRange, length: int) -> int:
    """Copy piece by piece, none crossing a block of either file; returns the bytes that were copied."""
    copied = 0
    for _ in range(EXTENT_BLOCKS_PER_STEP):
        source_block, source_start = divmod(op.source_offset + copied, BLOCK_BYTES)
        block, start = divmod(op.target_offset + copied, BLOCK_BYTES)
        step = min(length - copied, BLOCK_BYTES - source_start, BLOCK_BYTES - start)
        held = overlapping(read_block(txn, op.source, source_block), source_start, source_start + step)
        shifted = [one._replace(offset=one.offset + start - source_start) for one in held]
        reached = editor.replace(block, start, start + step, shifted)
        copied += reached - start
        if reached < start + step or copied == length:
            break
    return copied


SPEC = OperationSpec("copy_range", "copy_range", run, footprint)
