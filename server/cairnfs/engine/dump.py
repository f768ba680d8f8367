"""Dumps: all pairs of an engine in a file that tells whether it is whole, for backups and for moving.

A dump is the line "cairnfs metadata 1", then frames: length and CRC-32C of what follows (each 4 bytes,
big-endian), and that many bytes of zlib-compressed pairs. A pair is the length of its key and of its value
(2 and 4 bytes), key, value; keys ascend. A frame of length 0 ends the pairs; behind it come the count of
pairs (8 bytes) and the SHA-256 of all frames before their compression (32 bytes), and nothing else.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import BinaryIO, Final, NamedTuple

from cairnfs.base.checksums import crc32c
from cairnfs.base.limits import DUMP_FRAME_BYTES, TRANSACTION_MAX_BYTES, TRANSACTION_MAX_KEYS, VALUE_MAX_BYTES
from cairnfs.engine.buffered import Pair
from cairnfs.engine.interface import Engine, EngineError, Operation, ReadTransaction, Transaction

LOADING_KEY: Final = b"\xffloading"  # there while an engine is being filled: it must not be served

_MAGIC: Final = b"cairnfs metadata 1\n"
_KIND: Final = b"cairnfs metadata "
_FRAME: Final = Struct(">II")
_PAIR: Final = Struct(">HI")
_END: Final = Struct(">Q32s")
_LAST: Final = b"\xff"  # no key of the file system starts with it
_LEVEL: Final = 1  # several times as fast as the default, and nearly as small
_FRAME_MAX_BYTES: Final = 2 * (DUMP_FRAME_BYTES + VALUE_MAX_BYTES)


class DumpDamaged(ValueError):
    """A dump is cut off, damaged, or of another version."""


class Contents(NamedTuple):
    """What a dump holds, or an engine: equal if all pairs are."""

    pairs: int
    digest: bytes


def dump(view: ReadTransaction) -> Iterator[bytes]:
    """A dump of `view`, in pieces of up to about DUMP_FRAME_BYTES."""
    yield _MAGIC
    count, digest = 0, hashlib.sha256()
    for pairs, packed in _packed_frames(view):
        count += pairs
        digest.update(packed)
        frame = zlib.compress(packed, _LEVEL)
        yield _FRAME.pack(len(frame), crc32c(frame)) + frame
    yield _FRAME.pack(0, 0) + _END.pack(count, digest.digest())


def contents(view: ReadTransaction) -> Contents:
    """What a dump of `view` would hold."""
    count, digest = 0, hashlib.sha256()
    for pairs, packed in _packed_frames(view):
        count += pairs
        digest.update(packed)
    return Contents(count, digest.digest())


def check(stream: BinaryIO) -> Contents:
    """Read a whole dump; what it holds. Raises DumpDamaged, and OSError."""
    reader = _Reader(stream)
    for _ in reader.pairs():
        pass
    return reader.contents


def load(engine: Engine, stream: BinaryIO) -> Contents:
    """Fill `engine`, which this process leads, from the seekable `stream`, and compare all of it.

    The dump is read to its end before anything is changed. An engine in which an earlier load broke off is
    emptied first. Raises DumpDamaged, EngineError, OSError, and ValueError when the engine is not empty.
    """
    start = stream.tell()
    expected = check(stream)
    stream.seek(start)
    _begin(engine)
    for batch in _batches(_Reader(stream).pairs()):
        _commit(engine, batch)
    with engine.snapshot() as view:
        found = contents(view)
    if found != expected:
        raise EngineError(f"the engine holds {found.pairs} pairs that are not those of the dump")
    _commit(engine, [(LOADING_KEY, None)])
    return found


def is_loading(view: ReadTransaction) -> bool:
    """Whether a load into this engine has not ended."""
    return view.get(LOADING_KEY) is not None


# ---------------------------------------------------------------------- writing


def _packed_frames(view: ReadTransaction) -> Iterator[tuple[int, bytes]]:
    """All pairs, packed: how many, and the bytes."""
    parts: list[bytes] = []
    count = size_bytes = 0
    for key, value in view.scan(b"", _LAST):
        parts += (_PAIR.pack(len(key), len(value)), key, value)
        count += 1
        size_bytes += _PAIR.size + len(key) + len(value)
        if size_bytes >= DUMP_FRAME_BYTES:
            yield count, b"".join(parts)
            parts, count, size_bytes = [], 0, 0
    if parts:
        yield count, b"".join(parts)


# ---------------------------------------------------------------------- reading


class _Reader:
    """Reads one dump; `contents` is there when all `pairs` were."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.contents = Contents(0, b"")

    def pairs(self) -> Iterator[Pair]:
        """Every pair, each from a frame that was checked."""
        magic = self._stream.read(len(_MAGIC))
        if magic != _MAGIC:
            known = "another version of dumps" if magic.startswith(_KIND) else "not a dump of metadata"
            raise DumpDamaged(f"this is {known}")
        count, digest = 0, hashlib.sha256()
        while packed := self._frame():
            digest.update(packed)
            for pair in _unpack(packed):
                count += 1
                yield pair
        found = Contents(count, digest.digest())
        if Contents(*_END.unpack(self._exactly(_END.size))) != found or self._stream.read(1):
            raise DumpDamaged("the dump does not hold what its end says")
        self.contents = found

    def _frame(self) -> bytes:
        """The next frame, unpacked; empty at the end."""
        size_bytes, checksum = _FRAME.unpack(self._exactly(_FRAME.size))
        if size_bytes > _FRAME_MAX_BYTES:
            raise DumpDamaged("the dump is damaged: a frame is too long")
        frame = self._exactly(size_bytes)
        if crc32c(frame) != checksum:
            raise DumpDamaged("the dump is damaged: a checksum is wrong")
        if not frame:
            return b""
        try:
            packed = zlib.decompress(frame)
        except zlib.error as error:
            raise DumpDamaged(f"the dump is damaged: {error}") from None
        if not packed:
            raise DumpDamaged("the dump is damaged: a frame is empty")
        return packed

    def _exactly(self, size_bytes: int) -> bytes:
        data = self._stream.read(size_bytes)
        if len(data) != size_bytes:
            raise DumpDamaged("the dump is cut off")
        return data


def _unpack(packed: bytes) -> Iterator[Pair]:
    at = 0
    while at < len(packed):
        key_bytes, value_bytes = _PAIR.unpack_from(packed, at)
        at += _PAIR.size
        value_at = at + key_bytes
        yield packed[at:value_at], packed[value_at : value_at + value_bytes]
        at = value_at + value_bytes


# ---------------------------------------------------------------------- loading


def _begin(engine: Engine) -> None:
    """Mark the engine as being loaded; empty it if a load has broken off in it before."""

    def body(transaction: Transaction) -> bool:
        started = is_loading(transaction)
        if not started:
            for _ in transaction.scan(b"", _LAST, limit=1):
                raise ValueError("the engine is not empty: a dump is loaded into a new one")
        transaction.put(LOADING_KEY, b"")
        return started

    def remove_some(transaction: Transaction) -> bool:
        doomed = [key for key, _ in transaction.scan(b"", _LAST, limit=TRANSACTION_MAX_KEYS)]
        for key in doomed:
            transaction.delete(key)
        return bool(doomed)

    if _run(engine, Operation(body)):
        while _run(engine, Operation(remove_some)):
            pass


def _batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """`pairs` in transactions of half the size that is allowed."""
    batch: list[Pair] = []
    size_bytes = 0
    for pair in pairs:
        batch.append(pair)
        size_bytes += len(pair[0]) + len(pair[1])
        if len(batch) >= TRANSACTION_MAX_KEYS or size_bytes >= TRANSACTION_MAX_BYTES // 2:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def _commit(engine: Engine, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
    def body(transaction: Transaction) -> None:
        for key, value in changes:
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, value)

    _run(engine, Operation(body))


def _run(engine: Engine, operation: Operation) -> object:
    (outcome,) = engine.commit([operation])
    if outcome.error is not None:
        raise outcome.error
    return outcome.value
