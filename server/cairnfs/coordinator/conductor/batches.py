"""Batches: changes that a session made under its WRITE leases, committed together (docs/internals/leases.md).

A batch recalls nobody and waits for nobody: what it touches is leased to its session, or made by it.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BATCH_ENTRIES_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.conductor import replies
from cairnfs.coordinator.conductor.context import Context, answer
from cairnfs.coordinator.conductor.orphans import Orphans
from cairnfs.coordinator.leases import Pending
from cairnfs.coordinator.namespace.batch import Change, Executed, changes_of, keys_read, run_batch
from cairnfs.coordinator.namespace.operation import MoreSteps, Touch
from cairnfs.coordinator.sessions import Session
from cairnfs.engine.interface import EngineBroken, Operation, Outcome, Transaction
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

_BATCH: Final = "batch"


class Batching(Pending):
    """One batch from its arrival to its reply."""

    __slots__ = ("barred", "changes", "event", "executed", "flow", "granted", "leased", "seq", "session")

    def __init__(self, flow: "Batches", session: Session, seq: int, changes: list[Change]) -> None:
        super().__init__(session.id)
        self.flow = flow
        self.session = session
        self.seq = seq
        self.changes = changes  # what is left of them, when the first goes in steps
        self.leased: set[int] = set()
        self.granted: set[int] = set()  # numbers of inodes to be made, leased to the session for this batch
        self.barred: set[int] = set()  # numbers that it may not use
        self.event: pb.Event | None = None  # the answer, once it is durable
        self.executed = Executed()

    def proceed(self) -> None:
        """Nobody believes any more what he should never have been told."""
        self.flow.finish(self)


class Batches:
    """Runs batches."""

    def __init__(self, context: Context, orphans: Orphans) -> None:
        self._context = context
        self._orphans = orphans

    def start(self, session: Session, seq: int, op: pb.Batch) -> None:
        """Begin a batch that was not executed before. Raises CairnError."""
        if len(op.entries) > BATCH_ENTRIES_MAX:
            raise CairnError(common.ERROR_CODE_INVALID, f"a batch of {len(op.entries)} entries")
        batching = Batching(self, session, seq, changes_of(op))
        self._take_leases(batching)
        session.in_flight[seq] = batching
        self._context.leases.add_pending(batching)
        self._submit(batching)

    def all_leased(self, session: Session, op: pb.Batch) -> bool:
        """Whether the session holds all that the batch needs, so that nobody else can be concerned."""
        writer = self._context.leases.writer
        made: set[int] = set()
        for change in changes_of(op):
            if any(ino not in made and writer(ino) != session.id for ino in change.inos):
                return False
            made.add(change.new_ino)
        return True

    def _take_leases(self, batching: Batching) -> None:
        """Find out what is leased, and lease the new inodes already now.

        Their maker changes them further before it hears of the commit, so whoever finds one in between
        must ask it first.
        """
        leases, session_id = self._context.leases, batching.session_id
        touched: set[int] = set().union(*(change.inos for change in batching.changes))
        batching.leased = {ino for ino in touched if leases.writer(ino) == session_id}
        for change in batching.changes:
            ino = change.new_ino
            if not ino or leases.writer(ino) == session_id:
                continue
            if leases.grant_unknown(session_id, ino):
                batching.granted.add(ino)
            else:
                batching.barred.add(ino)
        new = {change.new_ino for change in batching.changes if change.new_ino} - batching.barred
        batching.leased -= new  # not before it is made
        batching.touches = {ino: Touch(ino) for ino in batching.leased | new}

    def _submit(self, batching: Batching) -> None:
        """Commit the batch, or its next step."""
        session, seq = batching.session, batching.seq
        if not session.alive:
            self._context.leases.remove_pending(batching)
            session.in_flight.pop(seq, None)
            return
        key = keys.reply(session.id, seq)
        registry, changes = self._context.registry, batching.changes
        leased, barred, closed = batching.leased, batching.barred, self._closed(batching)
        keeping = self._context.keeping()

        def body(txn: Transaction) -> tuple[pb.Event, Executed] | MoreSteps:
            executed = run_batch(txn, registry, changes, leased, barred, closed, keeping)
            if isinstance(executed, MoreSteps):
                return executed
            event = answer(seq, _BATCH, executed.reply)
            # No touches: what was changed is leased to the session, so nobody is asked before a repetition.
            txn.put(key, replies.encode({}, event.reply.SerializeToString()))
            return event, executed

        read = keys_read(changes)
        operation = Operation(body, locks=(key, *read), prefetch=read)
        self._context.commit(operation, lambda outcome: self._committed(batching, outcome))

    def _closed(self, batching: Batching) -> Collection[int]:
        """What of it is certainly open nowhere, so that it need not outlive its last name.

        Others must have this session flush before they open any of it, which waits for this batch.
        """
        if self._context.sessions.recovering:
            return ()  # who has it open may not have come back yet
        return self._context.leases.closed(batching.touches)

    def _committed(self, batching: Batching, outcome: Outcome) -> None:
        """The commit is durable, or has left no change."""
        context, error = self._context, outcome.error
        if isinstance(error, EngineBroken):
            return  # not known whether it happened: the client asks again after the restart
        if error is None and isinstance(outcome.value, MoreSteps):
            first, *others = batching.changes
            batching.changes = [replace(first, op=outcome.value.request), *others]
            self._submit(batching)
            return
        context.leases.remove_pending(batching)
        if error is None:
            batching.event, batching.executed = outcome.value
            batching.session.recorded.append(batching.seq)
        for ino in batching.granted - batching.executed.made:
            context.leases.drop(batching.session_id, ino)
        if error is not None:
            context.fail(batching.session, batching.seq, error, _BATCH)
            return
        for ino in batching.executed.reaped:
            context.leases.drop(batching.session_id, ino)
        for ino, keep_open in batching.executed.removed:
            self._orphans.removed(batching.session, ino, keep_open=keep_open or batching.told(ino))
        for holder, ino in sorted(batching.provisional or ()):
            if holder != batching.session_id:
                context.recall_touched(batching, holder, batching.touches[ino])
        if not batching.waits:
            self.finish(batching)

    def finish(self, batching: Batching) -> None:
        """Reply."""
        session = batching.session
        assert batching.event is not None
        if session.alive:
            self._context.reply(session, batching.event)
        else:
            session.in_flight.pop(batching.seq, None)
        for ino, _ in batching.executed.removed:
            self._orphans.check(ino)

    def replay(self, session: Session, seq: int, op: pb.Batch, record: bytes) -> None:
        """Answer a batch that was executed before, perhaps by an earlier coordinator."""
        _, reply = replies.decode(record)
        event = pb.Event()
        event.reply.MergeFromString(reply)
        failed = {result.index for result in event.reply.batch.results if result.error}
        leases = self._context.leases
        for index, entry in enumerate(op.entries[: event.reply.batch.executed]):
            ino = entry.new_ino
            if not ino or index in failed or leases.writer(ino) == session.id:
                continue
            if self._context.exists(ino):
                leases.grant_unknown(session.id, ino)
        self._context.reply(session, event)
