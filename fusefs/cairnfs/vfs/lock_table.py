"""The advisory locks this mount was granted, kept so that they can be reclaimed and released."""

from cairnfs.rpc.v1 import metadata_pb2 as pb

_Key = tuple[int, int, bool]  # inode, owner, whether it is a BSD lock
_Range = tuple[int, int, int, int]  # start, end (inclusive), type, pid


class LockTable:
    """Ranges by inode and owner, split and merged as POSIX record locks are."""

    def __init__(self) -> None:
        self._ranges: dict[_Key, list[_Range]] = {}

    def apply(self, ino: int, owner: int, lock: pb.LockRange, *, flock: bool) -> None:
        """Record that `lock` was granted (or, for type UNLOCK, released)."""
        key = (ino, owner, flock)
        kept: list[_Range] = []
        for start, end, kind, pid in self._ranges.get(key, ()):
            if end < lock.start or start > lock.end:
                kept.append((start, end, kind, pid))
                continue
            if start < lock.start:
                kept.append((start, lock.start - 1, kind, pid))
            if end > lock.end:
                kept.append((lock.end + 1, end, kind, pid))
        if lock.type != pb.LOCK_TYPE_UNLOCK:
            kept.append((lock.start, lock.end, lock.type, lock.pid))
        if kept:
            self._ranges[key] = sorted(kept)
        else:
            self._ranges.pop(key, None)

    def holds(self, ino: int, owner: int, *, flock: bool) -> bool:
        """Whether `owner` holds any lock of this kind on the inode."""
        return (ino, owner, flock) in self._ranges

    def drop(self, ino: int, owner: int, *, flock: bool) -> None:
        """Forget all ranges of one owner."""
        self._ranges.pop((ino, owner, flock), None)

    def clear(self) -> None:
        """Forget everything: the session ended."""
        self._ranges.clear()

    def held(self) -> list[pb.HeldLock]:
        """All locks, as a reconnecting session reclaims them."""
        return [
            pb.HeldLock(
                ino=ino,
                owner=owner,
                flock=flock,
                range=pb.LockRange(start=start, end=end, type=pb.LockType.ValueType(kind), pid=pid),
            )
            for (ino, owner, flock), ranges in self._ranges.items()
            for start, end, kind, pid in ranges
        ]
