"""Changes: recall what conflicts, commit, recall what was granted meanwhile, reply."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import FOOTPRINT_RETRIES_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.conductor import replies
from cairnfs.coordinator.conductor.context import Context, answer
from cairnfs.coordinator.conductor.grants import Grants
from cairnfs.coordinator.conductor.opens import Opens
from cairnfs.coordinator.conductor.orphans import Orphans
from cairnfs.coordinator.leases import Pending
from cairnfs.coordinator.namespace.ids import reserve_inode_numbers
from cairnfs.coordinator.namespace.operation import (
    Env,
    Footprint,
    FootprintChanged,
    MoreSteps,
    OperationSpec,
    Touch,
)
from cairnfs.coordinator.recalls import Waiter
from cairnfs.coordinator.sessions import Session
from cairnfs.engine.interface import EngineBroken, Operation, Outcome, Transaction
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

_OPEN_TRUNCATE: Final = "open_truncate"


class Mutation(Pending):
    """One change of one session, from its arrival to its reply."""

    __slots__ = (
        "attempts",
        "delayed",
        "env",
        "error",
        "event",
        "flow",
        "op",
        "original",
        "seq",
        "session",
        "spec",
        "stepped",
        "waited",
    )

    def __init__(
        self, flow: "Mutations", session: Session, seq: int, spec: OperationSpec, op: Any, env: Env
    ) -> None:
        super().__init__(session.id)
        self.flow = flow
        self.session = session
        self.seq = seq
        self.spec = spec
        self.original = op
        self.op = op  # what is left of it, when it goes in steps
        self.env = env
        self.attempts = 0
        self.stepped = False
        self.waited = False  # for room in a realm
        self.delayed = False  # between commit and reply others may have changed the same
        self.event: pb.Event | None = None  # the answer, once it is durable
        self.error: Exception | None = None

    def proceed(self) -> None:
        """All recalls were answered."""
        if self.event is not None or self.error is not None:
            self.flow.finish(self)
        else:
            self.flow.submit(self)


class Replaying(Waiter):
    """A change that was executed before, until its reply can be repeated."""

    __slots__ = ("caller", "flow", "reply", "seq", "session", "touches", "truncation")

    def __init__(
        self,
        flow: "Mutations",
        session: Session,
        seq: int,
        caller: pb.Caller,
        truncation: pb.Open | None,
        touches: list[Touch],
        reply: bytes,
    ) -> None:
        super().__init__()
        self.flow = flow
        self.session = session
        self.seq = seq
        self.caller = caller
        self.truncation = truncation
        self.touches = touches
        self.reply = reply

    def proceed(self) -> None:
        """Nobody believes what the change made stale any more."""
        self.flow.repeat(self)


class Mutations:
    """Runs mutations, any number at once; they wait for recalls only."""

    def __init__(self, context: Context, grants: Grants, opens: Opens, orphans: Orphans) -> None:
        self._context = context
        self._grants = grants
        self._opens = opens
        self._orphans = orphans
        self._starved: list[Mutation] = []
        self._refilling = False

    def start(self, session: Session, seq: int, caller: pb.Caller, spec: OperationSpec, op: Any) -> None:
        """Begin a request that was not executed before."""
        env = Env(caller, self._context.clock.wall_ns(), trash=self._context.keeping())
        mutation = Mutation(self, session, seq, spec, op, env)
        session.in_flight[seq] = mutation
        self._begin(mutation)

    # ------------------------------------------------------------------ recalls first

    def _begin(self, mutation: Mutation) -> None:
        context = self._context
        plan = mutation.spec.footprint
        assert plan is not None
        if mutation.spec.creates_inode and not mutation.env.new_ino and not self._number(mutation):
            return
        try:
            footprint: Footprint = context.read(lambda txn: plan(txn, mutation.op))
        except Exception as error:  # noqa: BLE001 - a bug in one operation must not end the stream
            mutation.error = error
            self.finish(mutation)
            return
        mutation.env.footprint = footprint
        mutation.touches = _merged(footprint, mutation.env.new_ino)
        context.leases.add_pending(mutation)
        for touch in mutation.touches.values():
            for holder in context.leases.holders(touch.ino):
                if holder != mutation.session_id:
                    self._context.recall_touched(mutation, holder, touch)
        if not mutation.waits:
            self.submit(mutation)

    # ------------------------------------------------------------------ commit

    def submit(self, mutation: Mutation) -> None:
        """Commit the change, or its next step."""
        if not mutation.session.alive:
            self._abandon(mutation)
            return
        spec, env, op, touches = mutation.spec, mutation.env, mutation.op, mutation.touches
        key = keys.reply(mutation.session_id, mutation.seq)
        seq, result, run = mutation.seq, spec.result, spec.run

        def body(txn: Transaction) -> pb.Event | MoreSteps:
            value = run(txn, op, env)
            if isinstance(value, MoreSteps):
                return value
            event = answer(seq, result, value)
            txn.put(key, replies.encode(touches, event.reply.SerializeToString()))
            return event

        inodes, entries = _keys_of(touches)
        operation = Operation(body, locks=(key, *inodes), prefetch=(*inodes, *entries))
        self._context.commit(operation, _outcome_for(self, mutation))

    def committed(self, mutation: Mutation, outcome: Outcome) -> None:
        """The commit is durable, or has left no change."""
        context = self._context
        error = outcome.error
        if isinstance(error, EngineBroken):
            return  # not known whether it happened: the client asks again after the restart
        if error is None and isinstance(outcome.value, MoreSteps):
            mutation.stepped = True
            mutation.op = outcome.value.request
            mutation.env.now_ns = context.clock.wall_ns()
            self.submit(mutation)
            return
        if _is_quota(error) and not mutation.waited and self._orphans.await_reaping(mutation):
            mutation.waited = True  # what was removed a moment ago may make room
            return
        context.leases.remove_pending(mutation)
        if isinstance(error, FootprintChanged) and mutation.session.alive:
            mutation.attempts += 1
            if mutation.attempts <= FOOTPRINT_RETRIES_MAX:
                self._begin(mutation)
                return
            error = CairnError(common.ERROR_CODE_OVERLOADED, "the names kept changing")
        if error is None:
            mutation.event = outcome.value
            mutation.session.recorded.append(mutation.seq)
            self._note_removed(mutation)
        else:
            mutation.error = error
        if (error is None or mutation.stepped) and mutation.provisional:
            self._recall_provisional(mutation, mutation)
            mutation.delayed = mutation.waits > 0
        if not mutation.waits:
            self.finish(mutation)

    def _recall_provisional(self, mutation: Mutation, waiter: Mutation | None) -> None:
        for holder, ino in sorted(mutation.provisional or ()):
            touch = mutation.touches.get(ino)
            if touch is not None and holder != mutation.session_id:
                self._context.recall_touched(waiter, holder, touch)

    def _note_removed(self, mutation: Mutation) -> None:
        """Remember who has a file open whose last link went, and let it be reaped later."""
        assert mutation.event is not None
        reply = mutation.event.reply
        removed = _removed(reply)
        if removed is None or removed.nlink:
            return
        keep_open = mutation.original.keep_open or mutation.told(removed.ino)
        self._orphans.removed(mutation.session, removed.ino, keep_open=keep_open)

    # ------------------------------------------------------------------ reply

    def finish(self, mutation: Mutation) -> None:
        """Reply; nobody has anything left that the change made stale."""
        session, event = mutation.session, mutation.event
        if event is None:
            assert mutation.error is not None
            self._context.fail(session, mutation.seq, mutation.error, mutation.spec.name)
            return
        removed = _removed(event.reply)
        if session.alive and mutation.spec.name == _OPEN_TRUNCATE:
            self._opens.start(session, mutation.seq, mutation.env.caller, mutation.original)
        elif session.alive:
            self._tell(mutation, event)
        else:
            session.in_flight.pop(mutation.seq, None)
        if removed is not None and not removed.nlink:
            self._orphans.check(removed.ino)

    def _tell(self, mutation: Mutation, event: pb.Event) -> None:
        """Send the reply, with leases if it is still the newest state of what it tells.

        A delayed reply may be older than what others have changed and been told since.
        """
        if mutation.delayed:
            self._tell_late(mutation.session, event, mutation.touches.values())
        else:
            self._grant(mutation, event.reply)
            self._context.reply(mutation.session, event)

    def _tell_late(self, session: Session, event: pb.Event, touches: Iterable[Touch]) -> None:
        """Send a reply without leases, and recall right behind it what it makes its session believe."""
        self._context.reply(session, event)
        for touch in touches:
            self._context.recall_touched(None, session.id, touch)
        self._context.send_recall(session)

    def _grant(self, mutation: Mutation, reply: pb.Reply) -> None:
        """Fill in the leases. A new directory, and a file opened as well, is its maker's to write."""
        op, session_id = mutation.original, mutation.session_id
        self._grants.learned(session_id, ((ino, touch.names) for ino, touch in mutation.touches.items()))
        self._grants.grant(session_id, op, reply, mutation.spec.result)
        if self._context.exclusive_realms and mutation.spec.name == "rename":
            self._recall_own(mutation)
        wanted = mutation.spec.name == "mkdir" or (mutation.spec.name == "mknod" and op.open)
        if not wanted or reply.entry.attr.ino != mutation.env.new_ino:
            return
        if not self._context.may_write(mutation.env.new_ino):
            return
        ino = mutation.env.new_ino
        leases = self._context.leases
        if all(holder == session_id for holder in leases.holders(ino)) and not leases.is_open(ino):
            for change in leases.pending(ino):
                change.granted_meanwhile(session_id, ino)
            self._context.grant_write(session_id, ino)
            reply.entry.lease = pb.LEASE_KIND_WRITE

    def _recall_own(self, mutation: Mutation) -> None:
        """What has moved into a realm with a limit is not to be written from memory any more."""
        leases = self._context.leases
        for ino in mutation.touches:
            if leases.writer(ino) == mutation.session_id and not self._context.may_write(ino):
                self._context.recall(None, mutation.session_id, pb.RecallItem(ino=ino))

    def replay(
        self, session: Session, seq: int, caller: pb.Caller, name: str, op: Any, record: bytes
    ) -> None:
        """Answer a change that was executed before.

        If an earlier coordinator executed it, it may not have had the time for the last recalls.
        """
        touches, reply = replies.decode(record)
        truncation = op if name == _OPEN_TRUNCATE else None
        replaying = Replaying(self, session, seq, caller, truncation, touches, reply)
        session.in_flight[seq] = replaying
        for touch in touches if seq <= session.restored_seq else ():
            for holder in self._context.leases.holders(touch.ino):
                if holder != session.id:
                    self._context.recall_touched(replaying, holder, touch)
        if not replaying.waits:
            self.repeat(replaying)

    def repeat(self, replaying: "Replaying") -> None:
        """Send a recorded reply. Its leases may have gone since, so it carries none."""
        session = replaying.session
        if not session.alive:
            return
        if replaying.truncation is not None:
            self._opens.start(session, replaying.seq, replaying.caller, replaying.truncation)
            return
        event = pb.Event()
        event.reply.MergeFromString(replaying.reply)
        self._tell_late(session, event, replaying.touches)

    def _abandon(self, mutation: Mutation) -> None:
        """The session ended before the change was committed."""
        self._context.leases.remove_pending(mutation)
        mutation.session.in_flight.pop(mutation.seq, None)
        if mutation.stepped:
            self._recall_provisional(mutation, None)

    # ------------------------------------------------------------------ inode numbers

    def _number(self, mutation: Mutation) -> bool:
        """Give the change an inode number; without one it waits for the next range."""
        numbers = self._context.numbers
        if numbers.wants_refill and not self._refilling:
            self._refilling = True
            self._context.commit(Operation(reserve_inode_numbers), self._refilled)
        try:
            mutation.env.new_ino = numbers.take()
        except IndexError:
            self._starved.append(mutation)
            return False
        return True

    def _refilled(self, outcome: Outcome) -> None:
        self._refilling = False
        starved, self._starved = self._starved, []
        if outcome.error is None:
            self._context.numbers.add(outcome.value)
            for mutation in starved:
                self._begin(mutation)
            return
        for mutation in starved:
            mutation.error = outcome.error
            self.finish(mutation)


def _outcome_for(flow: Mutations, mutation: Mutation) -> Callable[[Outcome], None]:
    return lambda outcome: flow.committed(mutation, outcome)


def _is_quota(error: Exception | None) -> bool:
    return isinstance(error, CairnError) and error.code == common.ERROR_CODE_QUOTA


def _keys_of(touches: dict[int, Touch]) -> tuple[list[bytes], list[bytes]]:
    """The inodes and the entries that a change is about."""
    inodes = [keys.inode(ino) for ino in touches]
    return inodes, [keys.dentry(touch.ino, name) for touch in touches.values() for name in touch.names]


def _merged(footprint: Footprint, new_ino: int) -> dict[int, Touch]:
    """The touches by inode; of two on the same inode, what both allow to keep."""
    touches: dict[int, Touch] = {}
    for touch in footprint.touches:
        other = touches.get(touch.ino)
        if other is not None:
            names = (*other.names, *touch.names) if other.names and touch.names else ()
            attributes_only = other.attributes_only and touch.attributes_only
            touch = Touch(touch.ino, names, attributes_only)
        touches[touch.ino] = touch
    if new_ino:
        touches[new_ino] = Touch(new_ino)
    return touches


def _removed(reply: pb.Reply) -> common.Attr | None:
    """The inode that may have lost its last link."""
    match reply.WhichOneof("result"):
        case "remove":
            return reply.remove.attr
        case "rename" if reply.rename.HasField("replaced"):
            return reply.rename.replaced
        case _:
            return None
