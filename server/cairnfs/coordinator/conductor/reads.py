"""Reads: flush the WRITE leases of others, run on a snapshot, grant, reply."""

from typing import Any, Final

from cairnfs.base.errors import CairnError
from cairnfs.coordinator.conductor.context import Context, answer
from cairnfs.coordinator.conductor.grants import Grants, inodes_told
from cairnfs.coordinator.leases import READ
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.recalls import Waiter
from cairnfs.coordinator.sessions import Session
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

_NOT_FOUND: Final = CairnError(common.ERROR_CODE_NOT_FOUND)


class Reading(Waiter):
    """One read from its arrival to its reply."""

    __slots__ = ("env", "flow", "op", "seq", "session", "spec", "stamp")

    def __init__(
        self, flow: "Reads", session: Session, seq: int, spec: OperationSpec, op: Any, env: Env, stamp: int
    ) -> None:
        super().__init__()
        self.flow = flow
        self.session = session
        self.seq = seq
        self.spec = spec
        self.op = op
        self.env = env
        self.stamp = stamp  # WRITE leases granted later cover writes that this read need not see

    def proceed(self) -> None:
        """What was unsent has been flushed."""
        self.flow.run(self)


class Reads:
    """Runs reads, at once and on a snapshot, unless another session may have unsent writes."""

    def __init__(self, context: Context, grants: Grants) -> None:
        self._context = context
        self._grants = grants

    def start(self, session: Session, seq: int, caller: pb.Caller, spec: OperationSpec, op: Any) -> None:
        """Begin a request."""
        env = Env(caller, self._context.clock.wall_ns())
        reading = Reading(self, session, seq, spec, op, env, self._context.leases.stamp)
        session.in_flight[seq] = reading
        self.run(reading)

    def run(self, reading: Reading) -> None:
        """Answer, or have others flush first."""
        session, spec, op = reading.session, reading.spec, reading.op
        if not session.alive:
            return
        try:
            value = self._context.read(lambda txn: spec.run(txn, op, reading.env))
        except Exception as error:  # noqa: BLE001 - a bug in one operation must not end the stream
            self._context.fail(session, reading.seq, error, spec.name)
            return
        if self._context.leases.any_writers and self._flush_others(reading, value):
            return
        event = answer(reading.seq, spec.result, value)
        reply = event.reply
        if spec.result == "extents":
            if not op.no_lease:
                reply.extents.lease = self._grants.pages(session.id, op.ino)
        else:
            self._grants.grant(session.id, op, reply, spec.result)
        if spec.result == "entry" and not reply.entry.HasField("attr"):
            reply.error = _NOT_FOUND.code
        self._context.reply(session, event)

    def _flush_others(self, reading: Reading, value: Any) -> bool:
        """Recall WRITE leases under which `value` may be out of date; returns whether to wait.

        A lease granted after this read arrived matters only where the read needs a lease of its own.
        """
        context = self._context
        leases, session_id = context.leases, reading.session.id
        needs_lease = reading.spec.result == "extents" and not reading.op.no_lease
        for ino in inodes_told(reading.spec.result, reading.op, value):
            writer = leases.writer(ino)
            if writer is None or writer == session_id:
                continue
            if needs_lease or leases.write_stamp(ino) <= reading.stamp:
                context.recall(reading, writer, pb.RecallItem(ino=ino, keep=READ))
        return reading.waits > 0
