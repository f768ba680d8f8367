"""What all parts of the conductor share: the tables, the clock, the engine's snapshot, the effects to be."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError
from cairnfs.base.limits import LEASE_S, TRASH_INO
from cairnfs.base.logs import get_logger
from cairnfs.coordinator import keys
from cairnfs.coordinator.contentions import Contentions
from cairnfs.coordinator.leases import NONE, READ, WRITE, LeaseTable
from cairnfs.coordinator.locks import LockTable
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Keeping, OperationSpec, Touch
from cairnfs.coordinator.recalls import RecallBook, Waiter
from cairnfs.coordinator.records import Inode
from cairnfs.coordinator.sessions import Session, SessionTable
from cairnfs.engine.interface import EngineError, Operation, Outcome
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

log = get_logger(__name__)

Done = Callable[[Outcome], None]
Read = Callable[[Callable[[Any], Any]], Any]  # runs a function on a ReadTransaction


class InodeNumbers(Protocol):
    """Where new inode numbers come from (namespace.ids.IdAllocator)."""

    @property
    def wants_refill(self) -> bool: ...
    def add(self, numbers: range) -> None: ...
    def take(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Config:
    """What the conductor must know of the cluster; `lease_s` in seconds."""

    cluster_id: str
    incarnation: int
    replicas: int = 2
    lease_s: float = LEASE_S


@dataclass(frozen=True, slots=True)
class Commit:
    """Run `operation` in a group commit and give its outcome to `Conductor.committed` with `token`."""

    operation: Operation
    token: Done


@dataclass(slots=True)
class Effects:
    """What to do after one step: commits in order, events per connection in order, connections to close.

    A connection is closed after its events have been sent.
    """

    commits: list[Commit] = field(default_factory=list[Commit])
    sends: dict[int, list[pb.Event]] = field(default_factory=dict[int, list[pb.Event]])
    closes: list[int] = field(default_factory=list[int])


class Context:
    """The state of one coordinator's conductor."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        registry: dict[str, OperationSpec],
        read: Read,
        numbers: InodeNumbers,
        cluster_map: Callable[[], common.ClusterMap],
    ) -> None:
        self.config: Final = config
        self.clock: Final = clock
        self.registry: Final = registry
        self.read: Final = read
        self.numbers: Final = numbers
        self.cluster_map: Final = cluster_map
        self.sessions: Final = SessionTable(config.lease_s)
        self.leases: Final = LeaseTable()
        self.contentions: Final = Contentions()
        self.recalls: Final = RecallBook(config.lease_s, config.incarnation)
        self.locks: Final = LockTable()
        self.effects = Effects()
        self.low_space = False
        self.exclusive_realms: set[int] = set()  # where nobody gets a WRITE lease (conductor/realms.py)
        self.kept_s: dict[int, int] = {}  # how long what is removed is kept, by realm
        self.trash_realms: list[int] = []  # those of `kept_s`, and those that come in a moment

    def exists(self, ino: int) -> bool:
        """Whether the inode has been made and not been reaped, as of the last commit."""
        return self.read(lambda txn: txn.get(keys.inode(ino))) is not None

    def may_write(self, ino: int) -> bool:
        """Whether a WRITE lease on this inode may be granted."""
        if ino == TRASH_INO:
            return False
        if not self.exclusive_realms:
            return True
        inode: Inode | None = self.read(lambda txn: tree.find_inode(txn, ino))
        return inode is None or inode.realm not in self.exclusive_realms

    def keeping(self) -> Keeping | None:
        """What a change that is made now puts into the trash."""
        return Keeping(self.kept_s, self.clock.wall_ns()) if self.kept_s else None

    def notify(self) -> None:
        """Tell every session of low space and of where there is trash."""
        notice = pb.Notice(low_space=self.low_space, trash_realms=self.trash_realms)
        for session in self.sessions.all():
            self.emit(session, pb.Event(notice=notice))

    # ------------------------------------------------------------------ effects

    def take_effects(self) -> Effects:
        """What this step came to."""
        for recall in self.recalls.take_unsent():
            session = self.sessions.get(recall.session_id)
            if session is not None:
                self.emit(session, pb.Event(recall=recall.message))
        effects, self.effects = self.effects, Effects()
        return effects

    def send_recall(self, session: Session) -> None:
        """Send what this step recalls from the session now, right behind its last event."""
        recall = self.recalls.take_unsent_of(session.id)
        if recall is not None:
            self.emit(session, pb.Event(recall=recall.message))

    def commit(self, operation: Operation, token: Done) -> None:
        """Have `operation` committed; `token` gets its outcome."""
        self.effects.commits.append(Commit(operation, token))

    def emit(self, session: Session, event: pb.Event) -> None:
        """Send `event`, if the session is connected; else its client will ask again."""
        if session.connection is not None:
            self.send(session.connection, event)

    def send(self, connection: int, event: pb.Event) -> None:
        """Send `event` on a connection, in the order of the calls."""
        events = self.effects.sends.get(connection)
        if events is None:
            events = self.effects.sends[connection] = []
        events.append(event)

    def close(self, connection: int) -> None:
        """Close the connection after what was sent on it."""
        self.effects.closes.append(connection)

    # ------------------------------------------------------------------ replies

    def reply(self, session: Session, event: pb.Event) -> None:
        """Answer a request of `session` with `event.reply`."""
        session.in_flight.pop(event.reply.seq, None)
        self.emit(session, event)

    def fail(self, session: Session, seq: int, error: Exception, operation: str) -> None:
        """Answer a request with an error; what is not a CairnError is a bug or the engine's failure."""
        self.reply(session, failure(seq, error, operation))

    # ------------------------------------------------------------------ recalls

    def recall(self, waiter: Waiter | None, session_id: str, item: pb.RecallItem) -> None:
        """Have the session give up `item`; `waiter` waits for that."""
        now_s = self.clock.monotonic()
        if (
            waiter is not None
            and self.leases.writer(item.ino) == session_id
            and not self.recalls.wanted(session_id, item.ino)
        ):
            self.contentions.lost(item.ino, now_s)
        self.recalls.ask(waiter, session_id, item, now_s)

    def recall_touched(self, waiter: Waiter | None, session_id: str, touch: Touch) -> None:
        """Recall what `touch` changes. A WRITE lease always goes whole: what is unsent must be flushed."""
        kind = self.leases.kind(session_id, touch.ino)
        if kind == NONE:
            return
        item = pb.RecallItem(ino=touch.ino)
        if kind == READ:
            item.names.extend(touch.names)
            item.attributes_only = touch.attributes_only
        self.recall(waiter, session_id, item)

    def grant_read(self, session_id: str, ino: int) -> None:
        """Record a READ lease (or leave a WRITE lease of the same session alone)."""
        self.leases.grant_read(session_id, ino)
        self.recalls.granted(session_id, ino, READ)

    def grant_reads(self, session_id: str, inos: Iterable[int]) -> set[int]:
        """Record READ leases; returns those of `inos` that need a closer look, and have got none."""
        return self.leases.grant_reads(session_id, inos, self.recalls.wanted_of(session_id))

    def grant_write(self, session_id: str, ino: int, *, earlier: bool = False) -> None:
        """Record the WRITE lease, see LeaseTable."""
        self.leases.grant_write(session_id, ino, earlier=earlier)
        self.recalls.granted(session_id, ino, WRITE)

    def believed(self, session_id: str, ino: int) -> "pb.LeaseKind.ValueType":
        """The lease that the session may take itself to hold, whatever recalls it has seen already."""
        return self.recalls.believed(session_id, ino, self.leases.kind(session_id, ino))


def answer(seq: int, result: str, value: Any) -> pb.Event:
    """An event with the reply whose result field is `value` (None: no result)."""
    event = pb.Event()
    event.reply.seq = seq
    if value is not None:
        getattr(event.reply, result).CopyFrom(value)
    return event


def failure(seq: int, error: Exception, operation: str) -> pb.Event:
    """An event with the reply that tells of `error`."""
    event = pb.Event()
    event.reply.seq = seq
    event.reply.error, event.reply.detail = explain(error, operation)
    return event


def explain(error: Exception, operation: str) -> "tuple[common.ErrorCode.ValueType, str]":
    """The error code and detail that a client is told; what nobody expected is logged."""
    if isinstance(error, CairnError):
        return error.code, error.detail
    if isinstance(error, EngineError):
        return common.ERROR_CODE_UNAVAILABLE, f"metadata engine: {error}"
    log.error("operation_failed_unexpectedly", operation=operation, exc_info=error)
    return common.ERROR_CODE_INTERNAL, f"{type(error).__name__} in {operation}"
