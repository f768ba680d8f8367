"""The coordinator's heart: takes connections, messages, commits and the passing of time; returns effects.

docs/internals/sessions-and-leases.md tells the rules. Every method is one step: it changes the tables and
returns what is to be sent, committed and closed. Nothing here waits.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError
from cairnfs.base.limits import (
    LEASES_PER_SESSION_MAX,
    LEASES_RECALLED_AT_ONCE,
    REPLIES_PURGED_AT_ONCE,
    REQUESTS_PER_MESSAGE_MAX,
    SESSION_OUTSTANDING_MAX,
)
from cairnfs.base.logs import get_logger
from cairnfs.coordinator import keys, sessions as session_records
from cairnfs.coordinator.conductor.arrivals import Arrivals
from cairnfs.coordinator.conductor.batches import Batches
from cairnfs.coordinator.conductor.chores import Chores
from cairnfs.coordinator.conductor.context import (
    Config,
    Context,
    Done,
    Effects,
    InodeNumbers,
    Read,
    answer,
)
from cairnfs.coordinator.conductor.endings import Endings
from cairnfs.coordinator.conductor.flushes import Flushes
from cairnfs.coordinator.conductor.grants import Grants
from cairnfs.coordinator.conductor.locking import Locking
from cairnfs.coordinator.conductor.mutations import Mutations
from cairnfs.coordinator.conductor.opens import Opens
from cairnfs.coordinator.conductor.orphans import Orphans
from cairnfs.coordinator.conductor.reads import Reads
from cairnfs.coordinator.conductor.realms import Answered, Realms
from cairnfs.coordinator.conductor.reservations import Reservations
from cairnfs.coordinator.conductor.trash import Trash
from cairnfs.coordinator.conductor.trees import OpenView, Tell, Trees
from cairnfs.coordinator.conductor.upgrades import Upgrades
from cairnfs.coordinator.leases import NONE, READ, WRITE
from cairnfs.coordinator.namespace.mends import Mend
from cairnfs.coordinator.namespace.operation import Footprint, OperationSpec, Touch
from cairnfs.coordinator.recalls import is_whole, wake
from cairnfs.coordinator.sessions import Session
from cairnfs.engine.interface import Outcome
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

log = get_logger(__name__)

# Requests that no lease of anybody else can conflict with: they need not wait for recovery.
_HARMLESS: Final = frozenset(
    {"statfs", "plan_write", "report_replica", "release", "cancel_lock", "reserve_inodes"}
)
# A session that sends these is saving data, perhaps for a recall.
_SAVING: Final = frozenset({"plan_write", "commit_write", "batch"})

Handler = Callable[[Session, int, Any], None]


class Conductor:
    """One coordinator's sessions, leases, locks and requests."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        registry: dict[str, OperationSpec],
        read: Read,
        numbers: InodeNumbers,
        cluster_map: Callable[[], common.ClusterMap],
        open_view: OpenView,
    ) -> None:
        """`read` runs a function on a snapshot of the engine; `clock` gives the time of each step.

        `open_view` gives a snapshot that may be kept.
        """
        self.context: Final = Context(config, clock, registry, read, numbers, cluster_map)
        self._connections: dict[int, Session | None] = {}
        grants = Grants(self.context)
        self.orphans: Final = Orphans(self.context)
        self._opens = Opens(self.context, grants)
        self._reads = Reads(self.context, grants)
        self._mutations = Mutations(self.context, grants, self._opens, self.orphans)
        self._batches = Batches(self.context, self.orphans)
        self._locking = Locking(self.context)
        self._flushes = Flushes(self.context)
        self._endings = Endings(self.context, self._locking, self.orphans, self._flushes)
        self._arrivals = Arrivals(
            self.context, self._locking, self._flushes, self._connections.__contains__, self._attach
        )
        self._chores = chores = Chores(self.context)
        self.realms: Final = Realms(self.context, chores)
        self.trash: Final = Trash(self.context, chores, self.orphans)
        self.trees: Final = Trees(
            self.context, chores, self.orphans, self._flushes, self.realms.refresh, open_view
        )
        self._deferred: deque[tuple[Session, pb.Request]] = deque()
        self._handlers: Final[dict[str, Handler]] = {
            "release": self._release,
            "get_lock": self._locking.get,
            "set_lock": self._locking.set,
            "cancel_lock": self._locking.cancel,
            "reserve_inodes": Reservations(self.context).start,
            "upgrade": Upgrades(self.context).start,
        }

    # ------------------------------------------------------------------ inputs

    def start(self) -> Effects:
        """Expect the sessions of the coordinator before this one. Call once, first."""
        self.realms.refresh()
        self._endings.resume()
        known = self.context.read(session_records.known_sessions)
        self.context.sessions.begin_recovery(known, self._now_s())
        if self.context.sessions.recovering:
            log.info("recovery_began", sessions=len(known))
        else:
            self.orphans.find_all()
            self.realms.resume()
            self.trees.resume()
        return self.context.take_effects()

    def connect(self, connection: int, hello: pb.Hello) -> Effects:
        """A new connection and its Hello; `connection` is a number not used before."""
        self._connections[connection] = None
        self._arrivals.hello(connection, hello)
        self._finish_recovery()
        return self.context.take_effects()

    def message(self, connection: int, message: pb.ClientMessage) -> Effects:
        """A message of a connection. One without a session (any more) is ignored."""
        session = self._connections.get(connection)
        if session is not None and session.connection == connection:
            self._message(session, message)
        return self.context.take_effects()

    def disconnect(self, connection: int) -> Effects:
        """The connection is gone; its session has the lease time to come back."""
        session = self._connections.pop(connection, None)
        if session is not None and session.connection == connection:
            session.connection = None
        return self.context.take_effects()

    def overflow(self, connection: int) -> Effects:
        """The client does not take what is sent to it: fence its session."""
        session = self._connections.get(connection)
        if session is not None and session.connection == connection:
            self._endings.fence(session, "the client does not take its events")
        return self.context.take_effects()

    def committed(self, outcomes: Iterable[tuple[Done, Outcome]]) -> Effects:
        """Commits that are over, with the tokens that came with them."""
        for token, outcome in outcomes:
            token(outcome)
        self._finish_recovery()
        return self.context.take_effects()

    def tick(self) -> Effects:
        """Time has passed; call a few times per second."""
        context, now_s = self.context, self._now_s()
        for session_id in list(context.recalls.overdue(now_s)):
            session = context.sessions.get(session_id)
            if session is not None:
                self._endings.fence(session, "a recall was not answered in time")
        for session in context.sessions.silent(now_s):
            self._endings.fence(session, "nothing was heard for the lease time")
        self._endings.tick()
        self.orphans.retry()
        self.realms.tick()
        self._flushes.tick()
        self.trees.tick()
        self.trash.tick()
        for session in context.sessions.all():
            self._purge(session, at_least=1)
        if context.sessions.recovery_is_over(now_s):
            self._finish_recovery()
        return context.take_effects()

    def node_updates(self, updates: Iterable[common.NodeUpdate]) -> Effects:
        """Tell every connected session of changes of the membership."""
        events = [pb.Event(node_update=update) for update in updates]
        for session in self.context.sessions.all():
            for event in events:
                self.context.emit(session, event)
        return self.context.take_effects()

    def low_space(self, low: bool) -> Effects:
        """Tell every session whether space is low, when that has changed."""
        if low != self.context.low_space:
            self.context.low_space = low
            self.context.notify()
        return self.context.take_effects()

    def mend(self, mend: Mend, done: Done) -> Effects:
        """Repair one finding of fsck; `done` gets the outcome."""

        def mended(value: Any, error: Exception | None) -> None:
            self.realms.refresh()  # it may have been one that was mended
            done(Outcome(value, error))

        self._chores.start(
            lambda _txn: Footprint(tuple(map(Touch, mend.touches))),
            lambda txn, env: mend.apply(txn, env.now_ns),
            mended,
        )
        return self.context.take_effects()

    def look_for_orphans(self) -> Effects:
        """Take in orphans that others recorded, and reap those that nobody has open."""
        if not self.context.sessions.recovering:
            self.orphans.find_all()
        return self.context.take_effects()

    def set_policy(self, request: pb.SetPolicyRequest, answered: Answered) -> Effects:
        """An operator sets the policy of a directory; `answered` gets the reply, now or later."""
        self.realms.set_policy(request, answered)
        return self.context.take_effects()

    def make_snapshot(self, request: pb.MakeSnapshotRequest, tell: Tell) -> Effects:
        """An operator wants a snapshot; `tell` hears how it gets on, until it is done or has failed."""
        self.trees.make_snapshot(request, tell)
        return self.context.take_effects()

    def delete_snapshot(self, request: pb.DeleteSnapshotRequest, tell: Tell) -> Effects:
        """An operator does not want a snapshot any more; `tell` as for `make_snapshot`."""
        self.trees.delete_snapshot(request, tell)
        return self.context.take_effects()

    def clone(self, request: pb.CloneTreeRequest, tell: Tell) -> Effects:
        """An operator wants a copy of a tree; `tell` as for `make_snapshot`."""
        self.trees.clone(request, tell)
        return self.context.take_effects()

    def change_trash(
        self, request: pb.ChangeTrashRequest, answered: Callable[[pb.ChangeTrashReply], None]
    ) -> Effects:
        """Somebody takes entries out of the trash; `answered` gets the reply, now or later."""
        self.trash.change(request, answered)
        return self.context.take_effects()

    def session_infos(self) -> list[pb.SessionInfo]:
        """Every session, for people."""
        infos = []
        for session in self.context.sessions.all():
            reads, writes = self.context.leases.count(session.id)
            infos.append(
                pb.SessionInfo(
                    session_id=session.id,
                    description=session.description,
                    read_leases=reads,
                    write_leases=writes,
                    locks=self.context.locks.count(session.id),
                    last_seen_ms=session.heard_ms,
                    connected=session.connection is not None,
                )
            )
        return infos

    # ------------------------------------------------------------------ messages

    def _message(self, session: Session, message: pb.ClientMessage) -> None:
        if message.HasField("hello") or len(message.requests) > REQUESTS_PER_MESSAGE_MAX:
            self._endings.end(session, common.ERROR_CODE_INVALID, "a message broke the protocol")
            return
        session.heard(self._now_s(), self.context.clock.wall_ns() // 1_000_000)
        session.acknowledge(message.acknowledged_seq)
        self._purge(session, at_least=REPLIES_PURGED_AT_ONCE)
        for done in message.recalls_done:
            self._recall_done(session, done)
        for flushed in message.flushed:
            self._flushes.answered(session, flushed)
        for request in message.requests:
            if session.alive:
                self._request(session, request)
        if message.goodbye:
            log.info("session_said_goodbye", session=session.id, description=session.description)
            self._endings.end(session, common.ERROR_CODE_OK, "")
            return
        self._relieve(session)
        if not (message.requests or message.recalls_done or message.flushed):
            self.context.emit(session, _HEARTBEAT)

    def _request(self, session: Session, request: pb.Request) -> None:
        seq = request.seq
        if seq in session.in_flight:
            return  # sent again after a reconnection; its reply is on the way
        name = request.WhichOneof("op")
        try:
            if len(session.in_flight) >= SESSION_OUTSTANDING_MAX:
                raise CairnError(common.ERROR_CODE_OVERLOADED, "too many requests at once")
            if name is None or seq == 0:
                raise CairnError(common.ERROR_CODE_NOT_SUPPORTED, "no such operation")
            if self._must_wait(session, name, request):
                session.in_flight[seq] = request
                self._deferred.append((session, request))
                return
            self._execute(session, seq, name, request)
        except Exception as error:  # noqa: BLE001 - one request must not end the stream of all
            self.context.fail(session, seq, error, name or "unknown")

    def _execute(self, session: Session, seq: int, name: str, request: pb.Request) -> None:
        repeated = seq <= session.max_seq
        session.max_seq = max(seq, session.max_seq)
        op = getattr(request, name)
        handler = self._handlers.get(name)
        if handler is not None:
            handler(session, seq, op)
            return
        if name in _SAVING:
            self.context.recalls.progress(session.id, self._now_s())
        if name == "batch":
            self._batch(session, seq, op, repeated=repeated)
            return
        if name == "open":
            if op.write and session.read_only:
                raise CairnError(common.ERROR_CODE_READ_ONLY)
            if not op.truncate:
                self._opens.start(session, seq, request.caller, op)
                return
            name = "open_truncate"
        spec = self.context.registry.get(name)
        if spec is None:
            raise CairnError(common.ERROR_CODE_NOT_SUPPORTED, name)
        if not spec.mutates:
            self._reads.start(session, seq, request.caller, spec, op)
            return
        if session.read_only:
            raise CairnError(common.ERROR_CODE_READ_ONLY)
        record = self._record(session, seq) if repeated else None
        if record is None:
            self._mutations.start(session, seq, request.caller, spec, op)
        else:
            self._mutations.replay(session, seq, request.caller, name, op, record)

    def _batch(self, session: Session, seq: int, op: pb.Batch, *, repeated: bool) -> None:
        if session.read_only:
            raise CairnError(common.ERROR_CODE_READ_ONLY)
        record = self._record(session, seq) if repeated else None
        if record is None:
            self._batches.start(session, seq, op)
        else:
            self._batches.replay(session, seq, op, record)

    def _record(self, session: Session, seq: int) -> bytes | None:
        key = keys.reply(session.id, seq)
        record: bytes | None = self.context.read(lambda txn: txn.get(key))
        return record

    def _recall_done(self, session: Session, done: pb.RecallDone) -> None:
        recall = self.context.recalls.answered(session.id, done.id)
        if recall is None:
            return
        leases = self.context.leases
        asked = set()
        for item in recall.message.items:
            asked.add(item.ino)
            if not is_whole(item):
                continue
            kept = recall.kept(item.ino)
            if kept == NONE:
                leases.drop(session.id, item.ino)
            elif kept == READ:
                leases.downgrade(session.id, item.ino)
        writing = set(done.open_for_write)
        for ino in asked.intersection(done.still_open):
            leases.note_open(session.id, ino, write=ino in writing)
        wake(recall.waiters)

    def _release(self, session: Session, seq: int, op: Any) -> None:
        self.context.leases.release(session.id, op.ino)
        self.context.reply(session, answer(seq, "", None))
        self.orphans.released(session.id, op.ino)

    # ------------------------------------------------------------------ recovery

    def _must_wait(self, session: Session, name: str, request: pb.Request) -> bool:
        """During recovery nothing runs that an unreclaimed lease could conflict with."""
        if not self.context.sessions.recovering or name in _HARMLESS:
            return False
        if name == "commit_write":
            return self.context.leases.kind(session.id, request.commit_write.ino) != WRITE
        if name == "batch":
            return not self._batches.all_leased(session, request.batch)
        return True

    def _finish_recovery(self) -> None:
        sessions = self.context.sessions
        if not sessions.recovery_is_over(self._now_s()):
            return
        for session in sessions.end_recovery():
            self._endings.fence(session, "it did not come back after the coordinator's start")
        if any(not session.alive for session in sessions.all()):
            return  # until their end is durable
        sessions.recovered()
        self._arrivals.recovered()
        log.info("recovery_ended", sessions=len(sessions), deferred=len(self._deferred))
        deferred, self._deferred = self._deferred, deque()
        for session, request in deferred:
            if session.in_flight.pop(request.seq, None) is not None and session.alive:
                self._request(session, request)
        self.orphans.find_all()
        self.realms.resume()
        self.trees.resume()

    # ------------------------------------------------------------------ housekeeping

    def _attach(self, connection: int, session: Session) -> None:
        if connection in self._connections:
            self._connections[connection] = session
        else:
            session.connection = None  # it went before its session was durable

    def _purge(self, session: Session, at_least: int) -> None:
        """Delete records of acknowledged replies; what a failed commit leaves goes with the session."""
        seqs = session.take_purgeable(at_least)
        if seqs:
            self.context.commit(session_records.purge(session.id, seqs), _ignore)

    def _relieve(self, session: Session) -> None:
        """Recall the oldest leases of a session that holds too many."""
        leases = self.context.leases
        if leases.total(session.id) <= LEASES_PER_SESSION_MAX:
            return
        if any(self.context.recalls.of_session(session.id)):
            return
        held = leases.held(session.id)
        for ino in [next(held) for _ in range(LEASES_RECALLED_AT_ONCE)]:
            self.context.recall(None, session.id, pb.RecallItem(ino=ino))

    def _now_s(self) -> float:
        return self.context.clock.monotonic()


_HEARTBEAT: Final = pb.Event(heartbeat=pb.Heartbeat())


def _ignore(_outcome: Outcome) -> None:
    """Nothing depends on it."""
