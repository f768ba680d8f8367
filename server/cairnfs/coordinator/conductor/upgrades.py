"""WRITE leases on directories, for sessions that change them (docs/internals/leases.md)."""

from typing import Any, Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import UPGRADE_CHILDREN_MAX
from cairnfs.coordinator.conductor.context import Context, answer
from cairnfs.coordinator.leases import NONE, Pending
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Touch
from cairnfs.coordinator.sessions import Session
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

_NAME: Final = "upgrade"


class Upgrading(Pending):
    """One Upgrade from its arrival to its reply; pending, so that nobody is given more meanwhile."""

    __slots__ = ("children", "directory", "flow", "seq", "session")

    def __init__(self, flow: "Upgrades", session: Session, seq: int, op: pb.Upgrade) -> None:
        super().__init__(session.id)
        self.flow = flow
        self.session = session
        self.seq = seq
        self.directory = op.directory
        self.children = tuple(op.children)
        self.touches = {op.directory: Touch(op.directory)}

    def proceed(self) -> None:
        """Those who were asked have given up their leases."""
        self.flow.decide(self)


class Upgrades:
    """Answers Upgrade."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def start(self, session: Session, seq: int, op: Any) -> None:
        """Grant, refuse, or ask others first. Raises CairnError."""
        context, directory = self._context, op.directory
        if session.read_only:
            raise CairnError(common.ERROR_CODE_READ_ONLY)
        if len(op.children) > UPGRADE_CHILDREN_MAX:
            raise CairnError(common.ERROR_CODE_INVALID, f"{len(op.children)} children")
        upgrading = Upgrading(self, session, seq, op)
        session.in_flight[seq] = upgrading
        others = [holder for holder in context.leases.holders(directory) if holder != session.id]
        now_s = context.clock.monotonic()
        keeps = bool(others) and not context.contentions.may_change_hands(directory, now_s)
        if keeps or self._is_taken(upgrading):
            self._reply(upgrading, pb.UpgradeReply())
            return
        context.leases.add_pending(upgrading)
        for holder in others:
            context.recall(upgrading, holder, pb.RecallItem(ino=directory))
        if not upgrading.waits:
            self.decide(upgrading)

    def decide(self, upgrading: Upgrading) -> None:
        """Grant, unless the directory is needed otherwise now."""
        context, session = self._context, upgrading.session
        leases, directory = context.leases, upgrading.directory
        leases.remove_pending(upgrading)
        if not session.alive:
            session.in_flight.pop(upgrading.seq, None)
            return
        try:
            attr: common.Attr | None = context.read(lambda txn: _attributes(txn, directory))
        except Exception as error:  # noqa: BLE001 - one request must not end the stream of all
            context.fail(session, upgrading.seq, error, _NAME)
            return
        held_elsewhere = any(holder != session.id for holder in leases.holders(directory))
        if attr is None or held_elsewhere or self._is_taken(upgrading) or not context.may_write(directory):
            self._reply(upgrading, pb.UpgradeReply())
            return
        context.grant_write(session.id, directory)
        context.contentions.watch(directory)
        children = [child for child in upgrading.children if self._is_free(session.id, child)]
        for child in children:
            context.grant_write(session.id, child)
        self._reply(upgrading, pb.UpgradeReply(granted=True, attr=attr, children=children))

    def _is_taken(self, upgrading: Upgrading) -> bool:
        """Whether others are changing the directory, or waiting for what the session has of it."""
        session_id, directory = upgrading.session_id, upgrading.directory
        return self._context.recalls.wanted(session_id, directory) or self._context.leases.changing_elsewhere(
            session_id, directory
        )

    def _is_free(self, session_id: str, ino: int) -> bool:
        """Whether `ino` can be leased to the session, which must know it under a lease, as a side effect."""
        leases = self._context.leases
        return (
            leases.kind(session_id, ino) != NONE
            and leases.holders(ino) == (session_id,)
            and not leases.open_elsewhere(session_id, ino)
            and not self._context.recalls.wanted(session_id, ino)
            and not leases.changing_elsewhere(session_id, ino)
            and self._context.may_write(ino)
        )

    def _reply(self, upgrading: Upgrading, reply: pb.UpgradeReply) -> None:
        self._context.reply(upgrading.session, answer(upgrading.seq, _NAME, reply))


def _attributes(txn: ReadTransaction, directory: int) -> common.Attr | None:
    """Of a directory that has a name; None for anything else."""
    inode = tree.find_inode(txn, directory)
    if inode is None or not tree.is_directory(inode) or inode.nlink == 0:
        return None
    return inode.to_attr(directory)
