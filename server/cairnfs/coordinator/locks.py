"""File locks of all sessions: POSIX byte ranges and BSD flock, each in a space of its own, in memory only.

As in Linux, a request is compared with the locks held, and those that wait are tried again, oldest first,
whenever a lock goes. A POSIX request that would close a circle of owners waiting for each other is refused.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import FILE_SIZE_MAX_BYTES, LOCKS_PER_SESSION_MAX
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

UNLOCK: Final = pb.LOCK_TYPE_UNLOCK
WRITE: Final = pb.LOCK_TYPE_WRITE

Owner = tuple[str, int]  # session and the kernel's lock owner
SpaceKey = tuple[int, bool]  # inode, flock


class _Held(NamedTuple):
    start: int
    end: int  # inclusive
    type: "pb.LockType.ValueType"
    pid: int


class Progress(Enum):
    """How far a lock request came."""

    DONE = "done"
    WAITS = "waits"
    REFUSED = "refused"  # another owner's lock is in the way


class LockRequest:
    """One SetLock. `token` tells the caller which request was granted later."""

    __slots__ = ("key", "owner", "token", "wanted")

    def __init__(
        self, session_id: str, op: pb.SetLock | pb.GetLock | pb.HeldLock, token: object = None
    ) -> None:
        flock = not isinstance(op, pb.GetLock) and op.flock
        if flock:
            start, end = 0, FILE_SIZE_MAX_BYTES
        else:
            start, end = op.range.start, min(op.range.end, FILE_SIZE_MAX_BYTES)
        if start > end:
            raise CairnError(common.ERROR_CODE_INVALID, "lock range ends before it starts")
        self.key: SpaceKey = (op.ino, flock)
        self.owner: Owner = (session_id, op.owner)
        self.wanted = _Held(start, end, op.range.type, op.range.pid)
        self.token = token


class _Space:
    """Locks of one kind on one inode."""

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.held: dict[Owner, list[_Held]] = {}
        self.waiting: list[LockRequest] = []

    def conflicts(self, request: LockRequest) -> Iterator[tuple[Owner, _Held]]:
        """Locks of other owners that exclude the request."""
        wanted = request.wanted
        if wanted.type == UNLOCK:
            return
        for owner, ranges in self.held.items():
            if owner == request.owner:
                continue
            for held in ranges:
                overlaps = held.start <= wanted.end and wanted.start <= held.end
                if overlaps and WRITE in (held.type, wanted.type):
                    yield owner, held


class LockTable:
    """All locks held and awaited."""

    def __init__(self) -> None:
        self._spaces: dict[SpaceKey, _Space] = {}
        self._by_session: dict[str, set[SpaceKey]] = {}
        self._counts: dict[str, int] = {}
        self._waits: dict[Owner, list[LockRequest]] = {}

    def conflict(self, request: LockRequest) -> pb.LockRange:
        """The first lock in the way, or a range of type UNLOCK (F_GETLK)."""
        space = self._spaces.get(request.key)
        if space is not None:
            for _owner, held in space.conflicts(request):
                return pb.LockRange(type=held.type, start=held.start, end=held.end, pid=held.pid)
        return pb.LockRange(type=UNLOCK)

    def set(self, request: LockRequest, wait: bool) -> tuple[Progress, list[LockRequest]]:
        """Lock or unlock; returns how that went, and the waiting requests granted because of it.

        Raises CairnError DEADLOCK when waiting could never end, NO_LOCKS when the session holds too many.
        """
        space = self._spaces.setdefault(request.key, _Space())
        blockers = [owner for owner, _ in space.conflicts(request)]
        if not blockers:
            self._check_room(request)
            self._apply(space, request)
            return Progress.DONE, self._retry(request.key, space)
        granted: list[LockRequest] = []
        if request.key[1] and request.owner in space.held:
            # As in Linux, changing the type of a BSD lock gives up the old one first.
            self._store(space, request.key, request.owner, [])
            granted = self._retry(request.key, space)
            blockers = [owner for owner, _ in space.conflicts(request)]
            if not blockers:
                self._apply(space, request)
                return Progress.DONE, granted
        if not wait:
            self._tidy(request.key, space)
            return Progress.REFUSED, granted
        if not request.key[1] and self._closes_circle(request.owner, blockers):
            raise CairnError(common.ERROR_CODE_DEADLOCK)
        space.waiting.append(request)
        self._waits.setdefault(request.owner, []).append(request)
        return Progress.WAITS, granted

    def reclaim(self, request: LockRequest) -> bool:
        """Take back a lock held before a reconnection; False when another owner has it now."""
        space = self._spaces.setdefault(request.key, _Space())
        if next(space.conflicts(request), None) is not None:
            return False
        self._apply(space, request)
        return True

    def cancel(self, request: LockRequest) -> bool:
        """Stop waiting; False when it does not wait (any more)."""
        space = self._spaces.get(request.key)
        if space is None or request not in space.waiting:
            return False
        self._stop_waiting(space, request)
        self._tidy(request.key, space)
        return True

    def drop_session(self, session_id: str) -> list[LockRequest]:
        """Release all locks and requests of a session; returns requests of others granted by that."""
        granted: list[LockRequest] = []
        for owner in [owner for owner in self._waits if owner[0] == session_id]:
            for request in list(self._waits[owner]):
                self.cancel(request)
        for key in self._by_session.pop(session_id, set()):
            space = self._spaces[key]
            for owner in [owner for owner in space.held if owner[0] == session_id]:
                del space.held[owner]
            granted += self._retry(key, space)
        self._counts.pop(session_id, None)
        return granted

    def count(self, session_id: str) -> int:
        """Number of ranges the session has locked."""
        return self._counts.get(session_id, 0)

    # ------------------------------------------------------------------ changes

    def _check_room(self, request: LockRequest) -> None:
        if request.wanted.type != UNLOCK and self.count(request.owner[0]) >= LOCKS_PER_SESSION_MAX:
            raise CairnError(common.ERROR_CODE_NO_LOCKS)

    def _apply(self, space: _Space, request: LockRequest) -> None:
        ranges = overlay(space.held.get(request.owner, []), request.wanted)
        self._store(space, request.key, request.owner, ranges)

    def _store(self, space: _Space, key: SpaceKey, owner: Owner, ranges: list[_Held]) -> None:
        before = len(space.held.get(owner, ()))
        self._counts[owner[0]] = self._counts.get(owner[0], 0) + len(ranges) - before
        if ranges:
            space.held[owner] = ranges
            self._by_session.setdefault(owner[0], set()).add(key)
        else:
            space.held.pop(owner, None)
            if not any(other[0] == owner[0] for other in space.held):
                self._by_session.get(owner[0], set()).discard(key)

    def _retry(self, key: SpaceKey, space: _Space) -> list[LockRequest]:
        granted: list[LockRequest] = []
        for request in list(space.waiting):
            if next(space.conflicts(request), None) is None:
                self._stop_waiting(space, request)
                self._apply(space, request)
                granted.append(request)
        self._tidy(key, space)
        return granted

    def _stop_waiting(self, space: _Space, request: LockRequest) -> None:
        space.waiting.remove(request)
        waits = self._waits[request.owner]
        waits.remove(request)
        if not waits:
            del self._waits[request.owner]

    def _tidy(self, key: SpaceKey, space: _Space) -> None:
        if not space.held and not space.waiting:
            self._spaces.pop(key, None)

    def _closes_circle(self, owner: Owner, blockers: list[Owner]) -> bool:
        """Whether one of `blockers` waits, directly or through others, for `owner`."""
        seen: set[Owner] = set()
        stack = list(blockers)
        while stack:
            blocker = stack.pop()
            if blocker == owner:
                return True
            if blocker in seen:
                continue
            seen.add(blocker)
            for request in self._waits.get(blocker, ()):
                if not request.key[1]:
                    stack.extend(other for other, _ in self._spaces[request.key].conflicts(request))
        return False


def overlay(ranges: list[_Held], new: _Held) -> list[_Held]:
    """One owner's sorted, disjoint ranges after `new` replaced what it overlaps; equal neighbours merge."""
    parts: list[_Held] = [] if new.type == UNLOCK else [new]
    for held in ranges:
        if held.end < new.start or new.end < held.start:
            parts.append(held)
            continue
        if held.start < new.start:
            parts.append(held._replace(end=new.start - 1))
        if new.end < held.end:
            parts.append(held._replace(start=new.end + 1))
    parts.sort()
    merged: list[_Held] = []
    for part in parts:
        last = merged[-1] if merged else None
        if last is not None and last.end + 1 == part.start and last[2:] == part[2:]:
            merged[-1] = last._replace(end=part.end)
        else:
            merged.append(part)
    return merged
