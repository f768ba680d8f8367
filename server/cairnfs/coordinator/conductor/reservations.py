"""Inode numbers that a session reserves, to make inodes in its own memory."""

from typing import Any

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import ID_RANGE
from cairnfs.coordinator.conductor.context import Context, answer
from cairnfs.coordinator.namespace.ids import reserve_inode_numbers
from cairnfs.coordinator.sessions import Session
from cairnfs.engine.interface import EngineBroken, Operation, Outcome
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

_NAME = "reserve_inodes"


class Reservations:
    """Answers ReserveInodes. It needs no record: what was lost with a reply is never given again."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def start(self, session: Session, seq: int, op: Any) -> None:
        """Reserve durably, then reply. Raises CairnError."""
        if session.read_only:
            raise CairnError(common.ERROR_CODE_READ_ONLY)
        if op.count == 0:
            raise CairnError(common.ERROR_CODE_INVALID, "no inode number asked for")
        count = min(op.count, ID_RANGE)
        session.in_flight[seq] = op
        operation = Operation(lambda txn: reserve_inode_numbers(txn, count))
        self._context.commit(operation, lambda outcome: self._reserved(session, seq, outcome))

    def _reserved(self, session: Session, seq: int, outcome: Outcome) -> None:
        if isinstance(outcome.error, EngineBroken):
            return
        if outcome.error is not None:
            self._context.fail(session, seq, outcome.error, _NAME)
            return
        numbers: range = outcome.value
        reply = pb.ReserveInodesReply(first=numbers.start, count=len(numbers))
        self._context.reply(session, answer(seq, _NAME, reply))
