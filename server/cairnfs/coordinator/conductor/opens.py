"""open(2): the WRITE lease for who is alone, a shared file for several writers."""

from typing import Any, Final

from cairnfs.base.limits import OPEN_RECALL_ROUNDS_MAX
from cairnfs.coordinator.conductor.context import Context, answer
from cairnfs.coordinator.conductor.grants import Grants
from cairnfs.coordinator.leases import NONE, READ, Pending
from cairnfs.coordinator.namespace.operation import Env, Touch
from cairnfs.coordinator.sessions import Session
from cairnfs.rpc.v1 import metadata_pb2 as pb

_OPEN: Final = "open"


class Opening(Pending):
    """One Open from its arrival to its reply.

    While it waits for others to give up their leases it is registered as pending, so that no new
    ones are given.
    """

    __slots__ = ("claims", "env", "flow", "op", "rounds", "seq", "session")

    def __init__(self, flow: "Opens", session: Session, seq: int, op: pb.Open, env: Env) -> None:
        super().__init__(session.id)
        self.flow = flow
        self.session = session
        self.seq = seq
        self.op = op
        self.env = env
        self.rounds = 0
        self.claims = False
        self.touches = {op.ino: Touch(op.ino)}

    def proceed(self) -> None:
        """Those who were asked have given up their leases."""
        self.flow.run(self)


class Opens:
    """Answers Open. An inode has one session that may write to it from memory, or several that may not."""

    def __init__(self, context: Context, grants: Grants) -> None:
        self._context = context
        self._grants = grants

    def start(self, session: Session, seq: int, caller: pb.Caller, op: Any) -> None:
        """Begin an Open; its truncation, if any, has happened already."""
        plain = pb.Open(ino=op.ino, write=op.write, want_extents=op.want_extents)
        opening = Opening(self, session, seq, plain, Env(caller, self._context.clock.wall_ns()))
        session.in_flight[seq] = opening
        self.run(opening)

    def run(self, opening: Opening) -> None:
        """Answer, or ask others for their leases first."""
        context, op = self._context, opening.op
        if not opening.session.alive:
            self._end(opening)
            return
        spec = context.registry[_OPEN]
        try:
            value = context.read(lambda txn: spec.run(txn, op, opening.env))
        except Exception as error:  # noqa: BLE001 - a bug in one operation must not end the stream
            self._end(opening)
            context.fail(opening.session, opening.seq, error, _OPEN)
            return
        writer = context.leases.writer(op.ino)
        if writer is not None and writer != opening.session_id:
            self._ask(opening, (writer,), NONE if op.write else READ)
        elif not op.write:
            self._reply(opening, value, self._grants.pages(opening.session_id, op.ino))
        else:
            self._for_writing(opening, value)

    def _for_writing(self, opening: Opening, value: Any) -> None:
        context, ino, session_id = self._context, opening.op.ino, opening.session_id
        readers = [holder for holder in context.leases.readers(ino) if holder != session_id]
        if (
            context.leases.written_elsewhere(session_id, ino)
            or not context.may_write(ino)
            or (readers and opening.rounds >= OPEN_RECALL_ROUNDS_MAX)
        ):
            context.leases.note_open(session_id, ino, write=True)
            self._reply(opening, value, NONE, shared=True)
            return
        if readers:
            opening.rounds += 1
            self._ask(opening, readers, NONE)
            return
        self._end(opening)
        for change in context.leases.pending(ino):
            change.granted_meanwhile(session_id, ino)
        context.grant_write(session_id, ino)
        self._reply(opening, value, pb.LEASE_KIND_WRITE)

    def _ask(self, opening: Opening, holders: Any, keep: "pb.LeaseKind.ValueType") -> None:
        if opening.op.write and not opening.claims:
            opening.claims = True
            self._context.leases.add_pending(opening)
        for holder in holders:
            self._context.recall(opening, holder, pb.RecallItem(ino=opening.op.ino, keep=keep))

    def _reply(
        self, opening: Opening, value: Any, lease: "pb.LeaseKind.ValueType", *, shared: bool = False
    ) -> None:
        self._end(opening)
        event = answer(opening.seq, _OPEN, value)
        result = event.reply.open
        result.lease = lease
        result.shared = shared
        if result.HasField("extents"):
            result.extents.lease = lease
        self._context.reply(opening.session, event)

    def _end(self, opening: Opening) -> None:
        if opening.claims:
            opening.claims = False
            self._context.leases.remove_pending(opening)
