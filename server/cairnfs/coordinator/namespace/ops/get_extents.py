"""get_extents: where the bytes of a file are."""

from cairnfs.base.limits import BLOCK_BYTES, EXTENT_BLOCKS_PER_STEP, EXTENTS_REPLY_SLICES_MAX
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.namespace.slices import to_message
from cairnfs.coordinator.records import decode_slices
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def run(txn: ReadTransaction, op: pb.GetExtents, _env: Env) -> pb.ExtentsReply:
    """Slices of the whole blocks around a range, with the nodes that hold them.

    The reply covers at least the first block asked for, and less than all when there is too much of it.
    Raises CairnError NOT_FOUND, IS_DIRECTORY, INVALID.
    """
    inode = tree.load_regular(txn, op.ino)
    reply = read_extents(txn, op.ino, op.offset, op.length)
    reply.attr.CopyFrom(inode.to_attr(op.ino))
    return reply


def read_extents(txn: ReadTransaction, ino: int, offset: int, length: int) -> pb.ExtentsReply:
    """The slices in the whole blocks around [offset, offset + length); as much as one reply holds."""
    first = offset // BLOCK_BYTES
    end = max(first + 1, -(-(offset + length) // BLOCK_BYTES))
    nodes: dict[bytes, tuple[int, ...]] = {}
    slices: list[common_pb2.Slice] = []
    for count, (key, value) in enumerate(txn.scan(*keys.extent_range(ino, first, end))):
        block = keys.extent_block(key)
        if count == EXTENT_BLOCKS_PER_STEP or len(slices) >= EXTENTS_REPLY_SLICES_MAX:
            end = block
            break
        slices += [to_message(block, one, _holders(txn, one.chunk_id, nodes)) for one in decode_slices(value)]
    return pb.ExtentsReply(offset=first * BLOCK_BYTES, length=(end - first) * BLOCK_BYTES, slices=slices)


def _holders(txn: ReadTransaction, chunk_id: bytes, known: dict[bytes, tuple[int, ...]]) -> tuple[int, ...]:
    """The nodes that hold a chunk; `known` remembers those of chunks seen before."""
    nodes = known.get(chunk_id)
    if nodes is None:
        record = chunk_table.get_chunk(txn, chunk_id)
        nodes = known[chunk_id] = record.nodes if record is not None else ()
    return nodes


SPEC = OperationSpec("get_extents", "extents", run)
