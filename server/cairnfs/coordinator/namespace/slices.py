"""Slices between messages and blocks, checked against the chunks they name."""

from collections.abc import Iterable

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, CHUNK_MAX_BYTES, FILE_SIZE_MAX_BYTES
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.records import BlockSlice
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_CHUNK_ID_BYTES = 32


class ChunkLengths:
    """Lengths of chunks: of those just stored, and of those in the table."""

    def __init__(self, txn: ReadTransaction, chunks: Iterable[pb.StoredChunk]) -> None:
        self._txn = txn
        self._known = {chunk.chunk_id: chunk.length for chunk in chunks if chunk.nodes}

    def of(self, chunk_id: bytes) -> int:
        """Length in bytes. Raises CairnError CHUNK_GONE for a chunk that is not stored."""
        length = self._known.get(chunk_id)
        if length is None:
            record = chunk_table.get_chunk(self._txn, chunk_id)
            if record is None:
                raise CairnError(common_pb2.ERROR_CODE_CHUNK_GONE, chunk_id.hex())
            length = self._known[chunk_id] = record.length
        return length


def holders_of(chunks: Iterable[pb.StoredChunk]) -> dict[bytes, tuple[int, ...]]:
    """The nodes that have just stored each chunk."""
    return {chunk.chunk_id: tuple(chunk.nodes) for chunk in chunks}


def from_message(one: common_pb2.Slice, lengths: ChunkLengths) -> tuple[int, BlockSlice]:
    """The block of a slice, and the slice in it.

    Raises CairnError INVALID when it is empty, crosses a block or does not fit its chunk; FILE_TOO_LARGE;
    CHUNK_GONE.
    """
    block, offset = divmod(one.offset, BLOCK_BYTES)
    if one.length == 0 or offset + one.length > BLOCK_BYTES or len(one.chunk_id) != _CHUNK_ID_BYTES:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"slice {one.offset}+{one.length}")
    if one.offset + one.length > FILE_SIZE_MAX_BYTES:
        raise CairnError(common_pb2.ERROR_CODE_FILE_TOO_LARGE, str(one.offset + one.length))
    chunk_length = lengths.of(one.chunk_id)
    if one.chunk_offset + one.length > chunk_length or chunk_length > CHUNK_MAX_BYTES:
        raise CairnError(
            common_pb2.ERROR_CODE_INVALID, f"{one.chunk_offset}+{one.length} of a {chunk_length} byte chunk"
        )
    return block, BlockSlice(offset, one.length, one.chunk_offset, one.chunk_id, chunk_length)


def to_message(block: int, one: BlockSlice, nodes: Iterable[int] = ()) -> common_pb2.Slice:
    """A slice of `block` as clients get it."""
    return common_pb2.Slice(
        offset=block * BLOCK_BYTES + one.offset,
        length=one.length,
        chunk_id=one.chunk_id,
        chunk_offset=one.chunk_offset,
        chunk_length=one.chunk_length,
        nodes=nodes,
    )
