"""Has every mount save what it has unsent at one moment, without taking anything from it."""

from collections.abc import Callable
from dataclasses import dataclass

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import FLUSH_ALL_S
from cairnfs.coordinator.conductor.context import Context
from cairnfs.coordinator.sessions import Session
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

Done = Callable[[CairnError | None], None]


@dataclass(slots=True)
class _Flushing:
    """One moment, and the sessions that have not saved all of it."""

    done: Done
    deadline_s: float
    waiting: dict[str, str]  # session: its description


class Flushes:
    """What sessions were asked to save, and who waits for it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next_id = (context.config.incarnation << 32) + 1  # never one of an earlier coordinator
        self._under_way: dict[int, _Flushing] = {}

    def start(self, done: Done) -> None:
        """`done` is called when all that calls returned before now have changed is committed.

        Or with what keeps it from that: a mount that cannot save something, or takes too long.
        """
        context = self._context
        writers = [session for session in context.sessions.all() if session.alive and not session.read_only]
        if not writers:
            done(None)
            return
        number, self._next_id = self._next_id, self._next_id + 1
        waiting = {session.id: session.description for session in writers}
        deadline_s = context.clock.monotonic() + FLUSH_ALL_S
        self._under_way[number] = _Flushing(done, deadline_s, waiting)
        for session in writers:
            context.emit(session, pb.Event(flush=pb.Flush(id=number)))

    def resend(self, session: Session) -> None:
        """The session is connected again: what was sent to it may be lost."""
        for number, flushing in self._under_way.items():
            if session.id in flushing.waiting:
                self._context.emit(session, pb.Event(flush=pb.Flush(id=number)))

    def answered(self, session: Session, flushed: pb.Flushed) -> None:
        """The session has saved what it had, or could not."""
        flushing = self._under_way.get(flushed.id)
        if flushing is None or session.id not in flushing.waiting:
            return
        if flushed.error == common.ERROR_CODE_OK:
            self._without(flushed.id, session.id)
            return
        del self._under_way[flushed.id]
        who = flushing.waiting[session.id]
        flushing.done(CairnError(flushed.error, f"{who} cannot save its changes: {flushed.detail}"))

    def ended(self, session_id: str) -> None:
        """The session has ended: nothing more of it can be saved."""
        for number in list(self._under_way):
            self._without(number, session_id)

    def tick(self) -> None:
        """Give up what takes too long."""
        now_s = self._context.clock.monotonic()
        for number, flushing in list(self._under_way.items()):
            if flushing.deadline_s <= now_s:
                del self._under_way[number]
                who = ", ".join(sorted(flushing.waiting.values()))
                detail = f"{who} did not save its changes within {FLUSH_ALL_S:g} s"
                flushing.done(CairnError(common.ERROR_CODE_TIMED_OUT, detail))

    def _without(self, number: int, session_id: str) -> None:
        flushing = self._under_way[number]
        if flushing.waiting.pop(session_id, None) is not None and not flushing.waiting:
            del self._under_way[number]
            flushing.done(None)
