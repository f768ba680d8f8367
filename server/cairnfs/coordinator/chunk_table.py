"""The chunk table: which chunks are stored, where, and how many slices refer to them.

Functions on a transaction, used by commits (references), by repair (replicas) and by garbage collection.
A chunk with no reference is listed under garbage/<since>/<id> until it is referenced again or removed.
"""

from collections.abc import Iterable

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import keys
from cairnfs.coordinator.records import NO_WISH, ChunkRecord, ChunkState, Wish
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb


def get_chunk(txn: ReadTransaction, chunk_id: bytes) -> ChunkRecord | None:
    """The record of a chunk, or None when it is not stored."""
    value = txn.get(keys.chunk(chunk_id))
    return None if value is None else ChunkRecord.decode(value)


def put_chunk(txn: Transaction, chunk_id: bytes, record: ChunkRecord) -> None:
    """Write `record` and keep the garbage index in step with its `garbage_since_ns`."""
    old = get_chunk(txn, chunk_id)
    if old is not None and old.garbage_since_ns not in (0, record.garbage_since_ns):
        txn.delete(keys.garbage(old.garbage_since_ns, chunk_id))
    if record.references == 0:
        txn.put(keys.garbage(record.garbage_since_ns, chunk_id), b"")
    txn.put(keys.chunk(chunk_id), record.encode())


def add_references(
    txn: Transaction, chunk_id: bytes, length: int, nodes: Iterable[int], count: int, wish: Wish = NO_WISH
) -> ChunkRecord:
    """Count `count` more slices of a chunk, which `nodes` have just stored (none: it must be known).

    `wish` is how many replicas the file wants; with NO_WISH what others wanted stays.

    Raises CairnError CHUNK_GONE when the chunk is unknown and `nodes` is empty, or when it is being
    deleted; INVALID when it is stored with another length.
    """
    record = get_chunk(txn, chunk_id)
    if record is None:
        stored = tuple(sorted(set(nodes)))
        if not stored:
            raise CairnError(pb.ERROR_CODE_CHUNK_GONE, chunk_id.hex())
        record = ChunkRecord(length, count, ChunkState.LIVE, 0, stored, wish, wish)
    else:
        _require_usable(record, chunk_id, length)
        if record.references == 0:
            txn.delete(keys.garbage(record.garbage_since_ns, chunk_id))
        stays = record.references > 0 or wish == NO_WISH
        record = record._replace(
            references=record.references + count,
            garbage_since_ns=0,
            nodes=tuple(sorted({*record.nodes, *nodes})),
            wish=record.wish.joined(wish) if stays else wish,
            new_wish=record.new_wish.joined(wish) if stays else wish,
        )
    txn.put(keys.chunk(chunk_id), record.encode())
    return record


def _require_usable(record: ChunkRecord, chunk_id: bytes, length: int) -> None:
    if record.state is ChunkState.DELETING:
        raise CairnError(pb.ERROR_CODE_CHUNK_GONE, f"{chunk_id.hex()} is being deleted")
    if record.length != length:
        raise CairnError(pb.ERROR_CODE_INVALID, f"{chunk_id.hex()} has {record.length} bytes, not {length}")


def drop_reference(txn: Transaction, chunk_id: bytes, now_ns: int, count: int = 1) -> None:
    """Count `count` fewer slices of a chunk; without any left it is garbage since `now_ns`."""
    record = get_chunk(txn, chunk_id)
    if record is None or record.references < count:
        raise CairnError(pb.ERROR_CODE_INTERNAL, f"too few references of {chunk_id.hex()}: {record}")
    record = record._replace(references=record.references - count)
    if record.references == 0:
        record = record._replace(garbage_since_ns=now_ns)
        txn.put(keys.garbage(now_ns, chunk_id), b"")
    txn.put(keys.chunk(chunk_id), record.encode())


def resurrect(
    txn: Transaction, chunk_id: bytes, now_ns: int, nodes: Iterable[int] | None = None
) -> ChunkRecord | None:
    """Make a chunk usable for a whole grace time more: LIVE, and if unreferenced, so since `now_ns`.

    `nodes`, when given, are its only holders from now on. Returns the record, or None for an unknown chunk.
    """
    record = get_chunk(txn, chunk_id)
    if record is None:
        return None
    renewed = record._replace(
        state=ChunkState.LIVE,
        garbage_since_ns=now_ns if record.references == 0 else 0,
        nodes=record.nodes if nodes is None else tuple(sorted(set(nodes))),
    )
    put_chunk(txn, chunk_id, renewed)
    return renewed


def mark_deleting(txn: Transaction, chunk_id: bytes) -> ChunkRecord | None:
    """Forbid new references, before the nodes are told to delete the chunk.

    Returns the record, or None when the chunk is unknown or has references. The garbage index keeps it,
    so that a restarted coordinator finds it again.
    """
    record = get_chunk(txn, chunk_id)
    if record is None or record.references > 0:
        return None
    record = record._replace(state=ChunkState.DELETING)
    txn.put(keys.chunk(chunk_id), record.encode())
    return record


def remove(txn: Transaction, chunk_id: bytes) -> bool:
    """Forget a chunk that no node holds any more; false when it is unknown or has references."""
    record = get_chunk(txn, chunk_id)
    if record is None or record.references > 0:
        return False
    txn.delete(keys.garbage(record.garbage_since_ns, chunk_id))
    txn.delete(keys.chunk(chunk_id))
    return True


def add_replica(txn: Transaction, chunk_id: bytes, node: int) -> bool:
    """Record that `node` holds a chunk; false when the chunk is unknown or that was known."""
    record = get_chunk(txn, chunk_id)
    if record is None or node in record.nodes:
        return False
    txn.put(keys.chunk(chunk_id), record._replace(nodes=tuple(sorted((*record.nodes, node)))).encode())
    return True


def remove_replica(txn: Transaction, chunk_id: bytes, node: int) -> bool:
    """Record that `node` no longer holds a chunk; false when the chunk is unknown or that was known."""
    record = get_chunk(txn, chunk_id)
    if record is None or node not in record.nodes:
        return False
    remaining = tuple(holder for holder in record.nodes if holder != node)
    txn.put(keys.chunk(chunk_id), record._replace(nodes=remaining).encode())
    return True


def scan_chunks(txn: ReadTransaction, after: bytes, limit: int) -> list[tuple[bytes, ChunkRecord]]:
    """Up to `limit` chunks with ids above `after` (empty: from the start), in order of their ids."""
    pairs = txn.scan(*keys.chunk_range(after), limit=limit)
    return [(keys.chunk_id(key), ChunkRecord.decode(value)) for key, value in pairs]


def scan_garbage(txn: ReadTransaction, before_ns: int, limit: int) -> list[tuple[bytes, ChunkRecord]]:
    """Up to `limit` chunks unreferenced since earlier than `before_ns`, oldest first, DELETING ones too."""
    found: list[tuple[bytes, ChunkRecord]] = []
    for key, _ in txn.scan(*keys.garbage_range(before_ns), limit=limit):
        chunk_id = keys.garbage_chunk_id(key)
        record = get_chunk(txn, chunk_id)
        if record is not None:
            found.append((chunk_id, record))
    return found
