"""fallocate: allocate, punch holes and write zeros.

Space is not reserved: allocating only makes the file longer. Zeros are holes.
"""

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, EXTENT_BLOCKS_PER_STEP, FILE_SIZE_MAX_BYTES
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.extents import ExtentEditor
from cairnfs.coordinator.namespace.operation import Env, Footprint, MoreSteps, OperationSpec, Touch
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10
_MODES = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)


def footprint(_txn: ReadTransaction, op: pb.Fallocate) -> Footprint:
    """The whole inode."""
    return Footprint((Touch(op.ino),))


def run(txn: Transaction, op: pb.Fallocate, env: Env) -> pb.AttrReply | MoreSteps:
    """Do what fallocate(2) does for FALLOC_FL_KEEP_SIZE, PUNCH_HOLE with it, and ZERO_RANGE.

    Raises CairnError NOT_FOUND, IS_DIRECTORY, INVALID (no regular file, length 0), FILE_TOO_LARGE,
    NOT_SUPPORTED (other modes).
    """
    tree.require_cover(env, op.ino)
    inode = tree.load_regular(txn, op.ino)
    if op.mode not in _MODES:
        raise CairnError(common_pb2.ERROR_CODE_NOT_SUPPORTED, f"fallocate mode {op.mode:#x}")
    if op.length == 0:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "length 0")
    end = op.offset + op.length
    if end > FILE_SIZE_MAX_BYTES:
        raise CairnError(common_pb2.ERROR_CODE_FILE_TOO_LARGE, str(end))
    editor = ExtentEditor(txn, op.ino)
    done = True
    if op.mode & (PUNCH_HOLE | ZERO_RANGE):
        done = _clear(editor, txn, op.ino, op.offset, end)
        editor.finish(env.now_ns)
        usage.change(txn, inode.realm, allocated_bytes=editor.allocated_delta)
    inode = tree.content_changed(inode, env.now_ns)._replace(
        size=inode.size if op.mode & KEEP_SIZE else max(inode.size, end),
        allocated_bytes=inode.allocated_bytes + editor.allocated_delta,
    )
    tree.save(txn, op.ino, inode)
    # What is cleared already holds no slices, so the same request goes on where this step ended.
    return pb.AttrReply(attr=inode.to_attr(op.ino)) if done else MoreSteps(op)


def _clear(editor: ExtentEditor, txn: Transaction, ino: int, start: int, end: int) -> bool:
    """Make [start, end) a hole, as far as this transaction goes; true when all of it is."""
    span = keys.extent_range(ino, start // BLOCK_BYTES, -(-end // BLOCK_BYTES))
    pairs = txn.scan(*span, limit=EXTENT_BLOCKS_PER_STEP + 1)
    for block in [keys.extent_block(key) for key, _ in pairs]:
        first = max(0, start - block * BLOCK_BYTES)
        last = min(BLOCK_BYTES, end - block * BLOCK_BYTES)
        if editor.replace(block, first, last, []) < last:
            return False
    return True


SPEC = OperationSpec("fallocate", "attr", run, footprint)
