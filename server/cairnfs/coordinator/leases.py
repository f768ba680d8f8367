"""Who may cache what: leases, open files and pending changes, per inode and session.

A lease costs two dictionary entries and nothing else (below 300 bytes): a million of them fit a small
machine. Rules about when to grant and when to recall are the conductor's.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from cairnfs.coordinator.namespace.operation import Touch
from cairnfs.coordinator.recalls import Waiter
from cairnfs.rpc.v1 import metadata_pb2 as pb

NONE: Final = pb.LEASE_KIND_NONE
READ: Final = pb.LEASE_KIND_READ
WRITE: Final = pb.LEASE_KIND_WRITE

_READ_STAMP: Final = 0
_EARLIER_STAMP: Final = 1


class Pending(Waiter):
    """A change under way: while it is registered, no other grant on what it touches can be relied on.

    `provisional` collects (session, inode) of leases that had to be granted all the same; the change
    recalls them before it is answered.
    """

    __slots__ = ("provisional", "session_id", "touches")

    def __init__(self, session_id: str) -> None:
        super().__init__()
        self.session_id = session_id
        self.touches: dict[int, Touch] = {}
        self.provisional: set[tuple[str, int]] | None = None

    def granted_meanwhile(self, session_id: str, ino: int) -> None:
        """Remember a lease granted on a touched inode while this change is pending."""
        if self.provisional is None:
            self.provisional = set()
        self.provisional.add((session_id, ino))

    def told(self, ino: int) -> bool:
        """Whether the session whose change it is was given a lease on `ino` meanwhile."""
        return self.provisional is not None and (self.session_id, ino) in self.provisional


class LeaseTable:
    """All leases, all remembered open files, all pending changes."""

    __slots__ = ("_held", "_opened", "_opened_by", "_pending", "_readers", "_stamp", "_writers")

    def __init__(self) -> None:
        # session -> inode -> 0 for READ, the stamp of the grant for WRITE; in order of granting
        self._held: dict[str, dict[int, int]] = {}
        # inode -> the one session with a READ lease, or the set of several
        self._readers: dict[int, str | set[str]] = {}
        self._writers: dict[int, str] = {}
        self._opened: dict[int, dict[str, bool]] = {}
        self._opened_by: dict[str, set[int]] = {}
        self._pending: dict[int, list[Pending]] = {}
        self._stamp = _EARLIER_STAMP

    # ------------------------------------------------------------------ leases

    @property
    def stamp(self) -> int:
        """Grows with every WRITE lease granted on what others may know."""
        return self._stamp

    @property
    def any_writers(self) -> bool:
        """Whether a WRITE lease exists at all."""
        return bool(self._writers)

    def writers(self) -> dict[int, str]:
        """The holders of all WRITE leases, by inode."""
        return dict(self._writers)

    def kind(self, session_id: str, ino: int) -> "pb.LeaseKind.ValueType":
        """The lease that the session holds."""
        stamp = self._held.get(session_id, {}).get(ino)
        if stamp is None:
            return NONE
        return READ if stamp == _READ_STAMP else WRITE

    def writer(self, ino: int) -> str | None:
        """The session with the WRITE lease."""
        return self._writers.get(ino)

    def write_stamp(self, ino: int) -> int:
        """The stamp of the WRITE lease on `ino`; 0 when there is none."""
        holder = self._writers.get(ino)
        return self._held[holder][ino] if holder is not None else 0

    def readers(self, ino: int) -> tuple[str, ...]:
        """Sessions with READ leases."""
        holders = self._readers.get(ino)
        if holders is None:
            return ()
        return (holders,) if isinstance(holders, str) else tuple(sorted(holders))

    def holders(self, ino: int) -> tuple[str, ...]:
        """Sessions with a lease of either kind."""
        writer = self._writers.get(ino)
        return self.readers(ino) if writer is None else (writer,)

    def held(self, session_id: str) -> Iterator[int]:
        """Inodes on which the session holds leases, the one granted or renewed longest ago first."""
        return iter(self._held.get(session_id, ()))

    def count(self, session_id: str) -> tuple[int, int]:
        """Numbers of READ and of WRITE leases of the session."""
        stamps = self._held.get(session_id, {}).values()
        writes = sum(1 for stamp in stamps if stamp != _READ_STAMP)
        return len(stamps) - writes, writes

    def total(self, session_id: str) -> int:
        """Number of leases of the session."""
        return len(self._held.get(session_id, ()))

    def grant_read(self, session_id: str, ino: int) -> None:
        """Record a READ lease; the session may hold any lease already. No other may hold WRITE."""
        held = self._held.get(session_id)
        if held is None:
            held = self._held[session_id] = {}
        elif ino in held:
            return
        assert ino not in self._writers, "a WRITE lease excludes every other lease"
        held[ino] = _READ_STAMP
        holders = self._readers.get(ino)
        if holders is None:
            self._readers[ino] = session_id
        elif isinstance(holders, str):
            self._readers[ino] = {holders, session_id}
        else:
            holders.add(session_id)

    def grant_reads(self, session_id: str, inos: Iterable[int], barred: set[int]) -> set[int]:
        """Record READ leases on `inos` but those in `barred`, under change or WRITE leases: returns these."""
        held = self._held.setdefault(session_id, {})
        readers, writers, pending = self._readers, self._writers, self._pending
        others: set[int] = set()
        for ino in inos:
            if ino in writers or ino in pending or ino in barred:
                others.add(ino)
                continue
            if ino in held:
                continue
            held[ino] = _READ_STAMP
            holders = readers.get(ino)
            if holders is None:
                readers[ino] = session_id
            elif isinstance(holders, str):
                readers[ino] = {holders, session_id}
            else:
                holders.add(session_id)
        return others

    def renew(self, session_id: str, ino: int) -> None:
        """Count the session's lease, if it has one, as the last one granted to it."""
        held = self._held.get(session_id)
        stamp = held.pop(ino, None) if held is not None else None
        if held is not None and stamp is not None:
            held[ino] = stamp

    def grant_write(self, session_id: str, ino: int, *, earlier: bool = False) -> None:
        """Record the WRITE lease. No other session may hold any lease.

        `earlier`: the session has held it for longer than this table knows, so reads that arrived before now
        may depend on what it changed.
        """
        if self._writers.get(ino) != session_id:
            self.drop(session_id, ino)
            assert not self.holders(ino), "a WRITE lease excludes every other lease"
            self._writers[ino] = session_id
        if not earlier:
            self._stamp += 1
        self._held.setdefault(session_id, {})[ino] = _EARLIER_STAMP if earlier else self._stamp

    def grant_unknown(self, session_id: str, ino: int) -> bool:
        """Record the WRITE lease on an inode that the session made in its own memory, as of earlier.

        False, and nothing is recorded, if anybody has a lease on it, or another has it open or changes it.
        """
        if ino in self._writers or ino in self._readers:
            return False
        if self.open_elsewhere(session_id, ino) or self.changing_elsewhere(session_id, ino):
            return False
        self._writers[ino] = session_id
        self._held.setdefault(session_id, {})[ino] = _EARLIER_STAMP
        return True

    def downgrade(self, session_id: str, ino: int) -> None:
        """Turn a WRITE lease into a READ lease; others are left alone."""
        if self._writers.get(ino) == session_id:
            self.drop(session_id, ino)
            self.grant_read(session_id, ino)

    def drop(self, session_id: str, ino: int) -> None:
        """End the session's lease, if it has one."""
        held = self._held.get(session_id)
        stamp = held.pop(ino, None) if held is not None else None
        if stamp is None:
            return
        if stamp != _READ_STAMP:
            del self._writers[ino]
            return
        holders = self._readers[ino]
        if isinstance(holders, str):
            del self._readers[ino]
            return
        holders.discard(session_id)
        if len(holders) == 1:
            self._readers[ino] = holders.pop()

    # ------------------------------------------------------------------ open files

    def note_open(self, session_id: str, ino: int, write: bool) -> None:
        """Remember that the session has the inode open, until it sends `Release`."""
        sessions = self._opened.setdefault(ino, {})
        sessions[session_id] = write or sessions.get(session_id, False)
        self._opened_by.setdefault(session_id, set()).add(ino)

    def set_open(self, session_id: str, ino: int, write: bool) -> None:
        """Remember it with exactly what the session says now."""
        self._opened.setdefault(ino, {})[session_id] = write
        self._opened_by.setdefault(session_id, set()).add(ino)

    def release(self, session_id: str, ino: int) -> None:
        """The session has no file open on the inode any more."""
        sessions = self._opened.get(ino)
        if sessions is not None and sessions.pop(session_id, None) is not None:
            if not sessions:
                del self._opened[ino]
            self._opened_by[session_id].discard(ino)

    def is_open(self, ino: int) -> bool:
        """Whether any session is known to have the inode open."""
        return ino in self._opened

    def closed(self, inos: Iterable[int]) -> set[int]:
        """Those of `inos` that no session is known to have open."""
        return set(inos).difference(self._opened)

    def open_elsewhere(self, session_id: str, ino: int) -> bool:
        """Whether another session is known to have the inode open."""
        sessions = self._opened.get(ino)
        return sessions is not None and any(other != session_id for other in sessions)

    def opened_by(self, session_id: str) -> tuple[int, ...]:
        """Inodes the session is known to have open."""
        return tuple(self._opened_by.get(session_id, ()))

    def written_elsewhere(self, session_id: str, ino: int) -> bool:
        """Whether another session is known to have the inode open for writing."""
        sessions = self._opened.get(ino)
        if not sessions:
            return False
        return any(write for other, write in sessions.items() if other != session_id)

    # ------------------------------------------------------------------ sessions

    def drop_session(self, session_id: str) -> tuple[int, ...]:
        """End everything of the session; returns the inodes it had open."""
        for ino in list(self._held.get(session_id, ())):
            self.drop(session_id, ino)
        self._held.pop(session_id, None)
        opened = self.opened_by(session_id)
        for ino in opened:
            self.release(session_id, ino)
        self._opened_by.pop(session_id, None)
        return opened

    # ------------------------------------------------------------------ pending changes

    def add_pending(self, change: Pending) -> None:
        """Register `change` on all it touches."""
        for ino in change.touches:
            self._pending.setdefault(ino, []).append(change)

    def remove_pending(self, change: Pending) -> None:
        """The change is durable, or has failed."""
        for ino in change.touches:
            changes = self._pending.get(ino)
            if changes is not None and change in changes:
                changes.remove(change)
                if not changes:
                    del self._pending[ino]

    def pending(self, ino: int) -> Iterable[Pending]:
        """Changes under way on the inode."""
        return self._pending.get(ino, ())

    def changing_elsewhere(self, session_id: str, ino: int) -> bool:
        """Whether a change of another session is pending on the inode."""
        return any(change.session_id != session_id for change in self._pending.get(ino, ()))

    def blocked(self, ino: int, name: bytes | None = None) -> bool:
        """Whether a pending change forbids a grant on `ino`, or on the entry `name` of that directory."""
        for change in self._pending.get(ino, ()):
            names = change.touches[ino].names
            if name is None or not names or name in names:
                return True
        return False
