"""Shortening a file in steps: the last bytes go first, so each step leaves a consistent, shorter file."""

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, EXTENT_BLOCKS_PER_STEP, FILE_SIZE_MAX_BYTES
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.extents import ExtentEditor
from cairnfs.engine.interface import Transaction
from cairnfs.rpc.v1 import common_pb2 as pb


def truncate_step(txn: Transaction, ino: int, size: int, now_ns: int) -> bool:
    """Bring a regular file nearer to `size` bytes; true when it has that size.

    Growing is one step (a hole). Times of content and attributes become `now_ns`. Raises CairnError
    NOT_FOUND, IS_DIRECTORY, INVALID, FILE_TOO_LARGE.
    """
    if size > FILE_SIZE_MAX_BYTES:
        raise CairnError(pb.ERROR_CODE_FILE_TOO_LARGE, str(size))
    inode = tree.load_regular(txn, ino)
    reached = size
    editor = ExtentEditor(txn, ino)
    if size < inode.size:
        reached = max(size, _cut(editor, txn, ino, size))
        editor.finish(now_ns)
        usage.change(txn, inode.realm, allocated_bytes=editor.allocated_delta)
    inode = inode._replace(size=reached, allocated_bytes=inode.allocated_bytes + editor.allocated_delta)
    tree.save(txn, ino, tree.content_changed(inode, now_ns))
    return reached == size


def _cut(editor: ExtentEditor, txn: Transaction, ino: int, size: int) -> int:
    """Remove stored bytes from the end down to `size`; returns the offset from which none is left."""
    span = keys.extent_range(ino, size // BLOCK_BYTES)
    blocks = [
        keys.extent_block(key) for key, _ in txn.scan(*span, limit=EXTENT_BLOCKS_PER_STEP + 1, reverse=True)
    ]
    for block in blocks[:EXTENT_BLOCKS_PER_STEP]:
        start = max(0, size - block * BLOCK_BYTES)
        reached = editor.clear_from_end(block, start)
        if reached > start:
            return block * BLOCK_BYTES + reached
    if len(blocks) > EXTENT_BLOCKS_PER_STEP:
        return (blocks[EXTENT_BLOCKS_PER_STEP] + 1) * BLOCK_BYTES
    return size
