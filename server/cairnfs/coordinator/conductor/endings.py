"""How sessions end: goodbye, silence, an unanswered recall, or a broken protocol.

The end is durable before anything the session held is given to others, so that a session fenced by one
coordinator cannot come back to the next with its old leases. Nor is anything given to others while the client
may still trust its caches because it does not know yet: the message that says so may be on its way for long.
"""

from cairnfs.base.limits import TRUST_LEASES_MAX
from cairnfs.base.logs import get_logger
from cairnfs.coordinator import sessions as session_records
from cairnfs.coordinator.conductor.context import Context
from cairnfs.coordinator.conductor.flushes import Flushes
from cairnfs.coordinator.conductor.locking import Locking
from cairnfs.coordinator.conductor.orphans import Orphans
from cairnfs.coordinator.recalls import wake
from cairnfs.coordinator.sessions import Session
from cairnfs.engine.interface import EngineBroken, Outcome
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

log = get_logger(__name__)


class Endings:
    """Ends sessions."""

    def __init__(self, context: Context, locking: Locking, orphans: Orphans, flushes: Flushes) -> None:
        self._context = context
        self._locking = locking
        self._orphans = orphans
        self._flushes = flushes
        self._failed: list[Session] = []
        self._trusting: list[Session] = []  # have ended, and may not know it

    def fence(self, session: Session, reason: str) -> None:
        """End a session that cannot be trusted to have given up what it held."""
        if not session.alive:
            return
        log.warning("session_fenced", session=session.id, description=session.description, reason=reason)
        self.end(session, common.ERROR_CODE_SESSION_FENCED, reason)

    def end(self, session: Session, code: "common.ErrorCode.ValueType", message: str) -> None:
        """Begin to end `session`; it is told why unless `code` is OK."""
        if not session.alive:
            return
        session.alive = False
        connection, session.connection = session.connection, None
        if connection is not None:
            if code != common.ERROR_CODE_OK:
                self._context.send(connection, pb.Event(end=pb.SessionEnd(code=code, message=message)))
            self._context.close(connection)
        if code == common.ERROR_CODE_OK:
            self._forget(session)  # it has given up everything itself
        else:
            self._trusting.append(session)
            self._forget_those_that_know()

    def resume(self) -> None:
        """After a start: delete what sessions left that had ended before."""
        for session_id in self._context.read(session_records.ended_sessions):
            self._forget(Session(session_id))

    def tick(self) -> None:
        """Go on when clients know of their end; try again what the engine refused."""
        self._forget_those_that_know()
        failed, self._failed = self._failed, []
        for session in failed:
            self._forget(session)

    def _forget_those_that_know(self) -> None:
        context = self._context
        known_s = context.clock.monotonic() - context.config.lease_s * TRUST_LEASES_MAX
        trusting, self._trusting = self._trusting, []
        for session in trusting:
            if session.heard_s <= known_s:
                self._forget(session)
            else:
                self._trusting.append(session)

    def _forget(self, session: Session) -> None:
        operation = session_records.forget(session.id)
        self._context.commit(operation, lambda outcome: self._forgotten(session, outcome))

    def _forgotten(self, session: Session, outcome: Outcome) -> None:
        if isinstance(outcome.error, EngineBroken):
            return
        if outcome.error is not None:
            log.warning("session_not_ended", session=session.id, reason=str(outcome.error))
            self._failed.append(session)
            return
        if outcome.value:
            self._forget(session)
        if self._context.sessions.get(session.id) is session:
            self._release(session)

    def _release(self, session: Session) -> None:
        context = self._context
        context.sessions.remove(session)
        opened = context.leases.drop_session(session.id)
        self._locking.drop_session(session)
        for recall in context.recalls.drop_session(session.id):
            wake(recall.waiters)
        self._flushes.ended(session.id)
        for ino in opened:
            self._orphans.check(ino)
