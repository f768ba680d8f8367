"""Which files lack bytes, by path, when chunks have no replica left. Two walks, made only then."""

from collections.abc import Collection, Iterator

from cairnfs.base import limits
from cairnfs.base.limits import BLOCK_BYTES, ROOT_INO
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace.tree import DIRECTORY_KIND
from cairnfs.coordinator.records import Dentry, decode_slices
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


class LostData:
    """Finds the ranges of files that `chunks` hold: call `step` until nothing follows, then `ranges`.

    It keeps the name of every directory in memory. At most FSCK_PROBLEMS_MAX ranges are found.
    """

    def __init__(self, chunks: Collection[bytes]) -> None:
        self._chunks = frozenset(chunks)
        self._found: list[tuple[int, int, int, bytes]] = []  # inode, offset, length, chunk
        self._files: frozenset[int] = frozenset()
        self._names: dict[int, tuple[int, bytes]] = {}
        self._after = b""
        self._walk = self._walk_extents if self._chunks else None

    def step(self, txn: ReadTransaction) -> bool:
        """Look at the next records; whether more follow."""
        walk = self._walk
        if walk is not None and not walk(txn):
            self._after = b""
            self._files = frozenset(ino for ino, *_ in self._found)
            self._walk = self._walk_names if walk == self._walk_extents and self._found else None
        return self._walk is not None

    def ranges(self) -> Iterator[pb.LostData]:
        """What was found, in order of inode and offset."""
        for ino, offset, length, chunk_id in self._found:
            yield pb.LostData(path=self._path(ino), offset=offset, length=length, chunk_id=chunk_id)

    def _walk_extents(self, txn: ReadTransaction) -> bool:
        count = 0
        for key, value in txn.scan(*keys.all_extents(self._after), limit=limits.SCAN_STEP_CHUNKS):
            count += 1
            self._after = key
            start = keys.extent_block(key) * BLOCK_BYTES
            for one in decode_slices(value):
                if one.chunk_id in self._chunks and len(self._found) < limits.FSCK_PROBLEMS_MAX:
                    self._found.append((keys.inode_of(key), start + one.offset, one.length, one.chunk_id))
        return count == limits.SCAN_STEP_CHUNKS

    def _walk_names(self, txn: ReadTransaction) -> bool:
        count = 0
        for key, value in txn.scan(*keys.all_dentries(self._after), limit=limits.SCAN_STEP_CHUNKS):
            count += 1
            self._after = key
            entry = Dentry.decode(value)
            if entry.kind == DIRECTORY_KIND or entry.ino in self._files:
                self._names[entry.ino] = keys.inode_of(key), keys.dentry_name(key)
        return count == limits.SCAN_STEP_CHUNKS

    def _path(self, ino: int) -> str:
        parts: list[str] = []
        at = ino
        while at != ROOT_INO and len(parts) < limits.FSCK_PATH_MAX_PARTS:
            directory, name = self._names.get(at, (ROOT_INO, b"#%d" % at))
            parts.append(name.decode(errors="backslashreplace"))
            at = directory
        return "/" + "/".join(reversed(parts))
