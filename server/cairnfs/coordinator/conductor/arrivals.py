"""How sessions begin and come back: Hello, what it reclaims, Welcome."""

from collections.abc import Callable
from typing import Any, Final

from cairnfs.base.errors import CairnError
from cairnfs.base.ids import new_id
from cairnfs.base.limits import BLOCK_BYTES, ROOT_INO, SESSIONS_MAX
from cairnfs.base.logs import get_logger
from cairnfs.coordinator import sessions as session_records
from cairnfs.coordinator.conductor.context import Context, explain
from cairnfs.coordinator.conductor.flushes import Flushes
from cairnfs.coordinator.conductor.locking import Locking
from cairnfs.coordinator.leases import NONE, READ, WRITE
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Env
from cairnfs.coordinator.recalls import Waiter
from cairnfs.coordinator.sessions import Session, check_hello
from cairnfs.engine.interface import Outcome
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

log = get_logger(__name__)

_ROOT: Final = pb.Caller(uid=0, gid=0)


class _Arriving(Waiter):
    """A Hello that waits for others to flush what they changed on the way to its root."""

    __slots__ = ("connection", "flow", "hello", "stamp")

    def __init__(self, flow: "Arrivals", connection: int, hello: pb.Hello, stamp: int) -> None:
        super().__init__()
        self.flow = flow
        self.connection = connection
        self.hello = hello
        self.stamp = stamp  # WRITE leases granted later cover changes that need not be seen

    def proceed(self) -> None:
        """What was unsent has been flushed."""
        self.flow.arrive(self)


class Arrivals:
    """Answers Hello."""

    def __init__(
        self,
        context: Context,
        locking: Locking,
        flushes: Flushes,
        connected: Callable[[int], bool],
        attached: Callable[[int, Session], None],
    ) -> None:
        """`attached` is told the session of a connection before its Welcome is sent."""
        self._context = context
        self._locking = locking
        self._flushes = flushes
        self._connected = connected
        self._attached = attached
        self._early: list[_Arriving] = []  # arrived during recovery

    def hello(self, connection: int, hello: pb.Hello) -> None:
        """Begin a session on this connection, or continue one."""
        self.arrive(_Arriving(self, connection, hello, self._context.leases.stamp))

    def arrive(self, arriving: _Arriving) -> None:
        """Answer, or have others flush first."""
        context, connection, hello = self._context, arriving.connection, arriving.hello
        if not self._connected(connection):
            return
        try:
            check_hello(hello, context.config.cluster_id)
            session = context.sessions.get(hello.session_id) if hello.session_id else None
            resumes = session is not None and session.alive
            restores = not resumes and bool(hello.session_id) and context.sessions.expects(hello.session_id)
            way, root = self._walk(hello.subdir)
            if not isinstance(root, CairnError):
                way.pop()  # of the root itself, only attributes are told, and without a lease
            # Who comes back has seen its root before, and must not be late.
            if not resumes and not restores and self._must_wait(arriving, way):
                return
            if isinstance(root, CairnError):
                raise root
            if session is not None and resumes:
                self._resume(connection, session, hello, root)
            elif restores:
                self._restore(connection, hello, root)
            elif len(context.sessions) >= SESSIONS_MAX:
                raise CairnError(common.ERROR_CODE_OVERLOADED, "too many sessions")
            else:
                self._begin(connection, hello, root)
        except Exception as error:  # noqa: BLE001 - one client must not take the others down
            self._refuse(connection, error)

    def recovered(self) -> None:
        """Everybody has come back, or has ended: those who waited for what others know can go on."""
        early, self._early = self._early, []
        for arriving in early:
            self.arrive(arriving)

    def _must_wait(self, arriving: _Arriving, way: list[int]) -> bool:
        """Have others flush what they changed on the way to the root; returns whether to wait for them."""
        context, leases = self._context, self._context.leases
        if context.sessions.recovering and arriving.hello.subdir.strip("/"):
            self._early.append(arriving)
            return True
        for ino in way:
            writer = leases.writer(ino)
            if writer is not None and leases.write_stamp(ino) <= arriving.stamp:
                context.recall(arriving, writer, pb.RecallItem(ino=ino, keep=READ))
        return arriving.waits > 0

    # ------------------------------------------------------------------ new, restored, resumed

    def _begin(self, connection: int, hello: pb.Hello, root: common.Attr) -> None:
        session = Session(new_id())
        self._introduce(session, hello)

        def saved(outcome: Outcome) -> None:
            if outcome.error is not None:
                self._refuse(connection, outcome.error)
                return
            session.heard(self._context.clock.monotonic(), self._context.clock.wall_ns() // 1_000_000)
            self._context.sessions.add(session)
            log.info("session_began", session=session.id, description=session.description)
            self._attach(connection, session)
            self._welcome(session, root, pb.Welcome())

        self._context.commit(session_records.save(session), saved)

    def _restore(self, connection: int, hello: pb.Hello, root: common.Attr) -> None:
        """A session from before this coordinator started: its word is all there is, and is good."""
        session = Session(hello.session_id)
        self._introduce(session, hello)
        seqs = self._context.read(lambda txn: session_records.recorded_seqs(txn, session.id))
        session.recorded.extend(seqs)
        session.max_seq = session.restored_seq = max(seqs, default=0)
        self._context.sessions.add(session)
        welcome = pb.Welcome(resumed=True)
        leases = self._context.leases
        for ino in hello.write_leases:
            if any(holder != session.id for holder in leases.holders(ino)):
                welcome.lost_write_leases.append(ino)
            else:
                leases.grant_write(session.id, ino, earlier=True)
        for ino in hello.read_leases:
            if leases.writer(ino) not in (None, session.id):
                welcome.lost_read_leases.append(ino)
            else:
                leases.grant_read(session.id, ino)
        welcome.lost_locks.extend(lock for lock in hello.locks if not self._locking.reclaim(session, lock))
        self._note_opens(session, hello)
        log.info("session_restored", session=session.id, description=session.description)
        self._attach(connection, session)
        self._welcome(session, root, welcome)

    def _resume(self, connection: int, session: Session, hello: pb.Hello, root: common.Attr) -> None:
        """A session that this coordinator knows: what both sides know of stays; recalls are sent again."""
        context, leases = self._context, self._context.leases
        self._introduce(session, hello)
        if session.connection is not None:
            context.close(session.connection)
        welcome = pb.Welcome(resumed=True)
        claimed = {*hello.read_leases, *hello.write_leases}
        for ino in [ino for ino in leases.held(session.id) if ino not in claimed]:
            if not context.recalls.wanted(session.id, ino):
                leases.drop(session.id, ino)
        for ino in hello.write_leases:
            if leases.kind(session.id, ino) == WRITE:
                continue
            if leases.holders(ino) or context.exists(ino):
                welcome.lost_write_leases.append(ino)
            else:
                leases.grant_write(session.id, ino, earlier=True)  # which was not sent yet
        for ino in hello.read_leases:
            kind = leases.kind(session.id, ino)
            if kind == NONE:
                welcome.lost_read_leases.append(ino)
            elif kind != READ and not context.recalls.wanted(session.id, ino):
                leases.downgrade(session.id, ino)
        self._note_opens(session, hello)
        self._attach(connection, session)
        self._welcome(session, root, welcome)
        for recall in context.recalls.of_session(session.id):
            context.emit(session, pb.Event(recall=recall.message))
        self._flushes.resend(session)

    # ------------------------------------------------------------------ parts

    def _introduce(self, session: Session, hello: pb.Hello) -> None:
        clock = self._context.clock
        session.description = hello.description
        session.read_only = hello.read_only
        session.heard(clock.monotonic(), clock.wall_ns() // 1_000_000)
        session.acknowledge(hello.acknowledged_seq)

    def _note_opens(self, session: Session, hello: pb.Hello) -> None:
        for ino in hello.open_inodes:
            self._context.leases.note_open(session.id, ino, write=False)
        for ino in hello.open_for_write:
            self._context.leases.note_open(session.id, ino, write=True)

    def _attach(self, connection: int, session: Session) -> None:
        session.connection = connection
        self._attached(connection, session)

    def _welcome(self, session: Session, root: common.Attr, welcome: pb.Welcome) -> None:
        config = self._context.config
        welcome.session_id = session.id
        welcome.incarnation = config.incarnation
        welcome.cluster_id = config.cluster_id
        welcome.lease_ms = int(config.lease_s * 1_000)
        welcome.root.CopyFrom(root)
        welcome.cluster_map.CopyFrom(self._context.cluster_map())
        welcome.replicas = config.replicas
        welcome.chunk_bytes = BLOCK_BYTES
        welcome.trash_realms.extend(self._context.trash_realms)
        self._context.emit(session, pb.Event(welcome=welcome))
        if self._context.low_space:
            notice = pb.Notice(low_space=True, trash_realms=self._context.trash_realms)
            self._context.emit(session, pb.Event(notice=notice))

    def _refuse(self, connection: int, error: Exception) -> None:
        code, message = explain(error, "hello")
        self._context.send(connection, pb.Event(end=pb.SessionEnd(code=code, message=message)))
        self._context.close(connection)

    def _walk(self, subdir: str) -> tuple[list[int], common.Attr | CairnError]:
        """The directories on the way to the one to mount, and that one's attributes or why there is none."""
        registry = self._context.registry
        lookup, get_attr = registry["lookup"], registry["get_attr"]
        names = tree.names_of_path(subdir)
        env = Env(_ROOT, self._context.clock.wall_ns())

        def walk(txn: Any) -> tuple[list[int], common.Attr | CairnError]:
            way = [ROOT_INO]
            try:
                for name in names:
                    entry = lookup.run(txn, pb.Lookup(parent=way[-1], name=name), env)
                    if not entry.HasField("attr"):
                        return way, CairnError(common.ERROR_CODE_NOT_FOUND, f"no directory {subdir}")
                    way.append(entry.attr.ino)
                return way, get_attr.run(txn, pb.GetAttr(ino=way[-1]), env).attr
            except CairnError as error:
                return way, error

        found: tuple[list[int], common.Attr | CairnError] = self._context.read(walk)
        return found
