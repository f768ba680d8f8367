"""Lock requests of sessions: answers them at once, or when the lock becomes free."""

from typing import Any

from cairnfs.base.errors import CairnError
from cairnfs.coordinator.conductor.context import Context, answer
from cairnfs.coordinator.locks import LockRequest, Progress
from cairnfs.coordinator.sessions import Session
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb


class _Waiting:
    """Whose SetLock waits."""

    __slots__ = ("seq", "session")

    def __init__(self, session: Session, seq: int) -> None:
        self.session = session
        self.seq = seq


class Locking:
    """GetLock, SetLock and CancelLock."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, session: Session, seq: int, op: Any) -> None:
        """Tell the first lock in the way."""
        conflict = self._context.locks.conflict(LockRequest(session.id, op))
        self._context.reply(session, answer(seq, "lock", pb.LockReply(conflict=conflict)))

    def set(self, session: Session, seq: int, op: Any) -> None:
        """Lock or unlock, now or later. Raises CairnError."""
        request = LockRequest(session.id, op, _Waiting(session, seq))
        progress, granted = self._context.locks.set(request, op.wait)
        match progress:
            case Progress.DONE:
                self._context.reply(session, answer(seq, "lock", pb.LockReply()))
            case Progress.WAITS:
                session.in_flight[seq] = request
            case Progress.REFUSED:
                error = CairnError(common.ERROR_CODE_WOULD_BLOCK)
                self._context.fail(session, seq, error, "set_lock")
        self._tell(granted)

    def cancel(self, session: Session, seq: int, op: Any) -> None:
        """Stop a SetLock that waits: it is answered INTERRUPTED, before this request is."""
        waiting = session.in_flight.get(op.seq)
        if isinstance(waiting, LockRequest) and self._context.locks.cancel(waiting):
            self._context.fail(session, op.seq, CairnError(common.ERROR_CODE_INTERRUPTED), "set_lock")
        self._context.reply(session, answer(seq, "", None))

    def reclaim(self, session: Session, lock: pb.HeldLock) -> bool:
        """Take back a lock; False when it is another's now, or makes no sense."""
        try:
            return self._context.locks.reclaim(LockRequest(session.id, lock))
        except CairnError:
            return False

    def drop_session(self, session: Session) -> None:
        """The session has ended."""
        self._tell(self._context.locks.drop_session(session.id))

    def _tell(self, granted: list[LockRequest]) -> None:
        for request in granted:
            waiting = request.token
            if isinstance(waiting, _Waiting):
                self._context.reply(waiting.session, answer(waiting.seq, "lock", pb.LockReply()))
