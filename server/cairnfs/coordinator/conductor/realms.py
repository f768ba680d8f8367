"""Policies of directories: set by operators, spread over what is in them, and kept where leases are granted.

In a realm with a limit nobody holds a WRITE lease, so every change is a request that can fail in time.
"""

from collections.abc import Callable
from typing import Any

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import ROOT_INO, SNAPSHOTS_REALM, TRASH_INO
from cairnfs.base.logs import get_logger
from cairnfs.base.reserved import TRASH
from cairnfs.coordinator.conductor.chores import Chores
from cairnfs.coordinator.conductor.context import Context
from cairnfs.coordinator.leases import READ
from cairnfs.coordinator.namespace import policy, retag, trash, tree, usage
from cairnfs.coordinator.namespace.operation import Footprint, Touch
from cairnfs.coordinator.recalls import Waiter
from cairnfs.coordinator.records import RealmState
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

log = get_logger(__name__)

Answered = Callable[[pb.SetPolicyReply], None]


class _Setting(Waiter):
    """A change of a policy, until its directory is found and nobody has unsent changes there."""

    __slots__ = ("answered", "flow", "ino", "request", "stamp")

    def __init__(self, flow: "Realms", request: pb.SetPolicyRequest, answered: Answered, stamp: int) -> None:
        super().__init__()
        self.flow = flow
        self.request = request
        self.answered = answered
        self.stamp = stamp  # WRITE leases granted later cover changes that need not be seen
        self.ino = 0

    def proceed(self) -> None:
        """What was unsent has been flushed."""
        self.flow.look(self)


class Realms:
    """Carries policies out."""

    def __init__(self, context: Context, chores: Chores) -> None:
        self._context = context
        self._chores = chores
        self._walking: set[int] = set()
        self._waiting: set[int] = set()  # realms to be forgotten when nothing belongs to them any more
        self._coming: set[int] = set()  # directories that get a limit in a moment
        self._trash_coming: set[int] = set()  # directories whose files are going to be kept

    # ------------------------------------------------------------------ from time to time

    def refresh(self) -> None:
        """Find out where no WRITE lease may be granted, and where there is trash, which clients are told."""
        context = self._context
        context.exclusive_realms = context.read(self._exclusive)
        context.kept_s = context.read(trash.retentions)
        realms = sorted({*context.kept_s, *self._trash_coming})
        if realms != context.trash_realms:
            context.trash_realms = realms
            context.notify()

    def _exclusive(self, txn: ReadTransaction) -> set[int]:
        found = policy.exclusive(txn)
        for ino, _ in policy.scan(txn) if self._coming else ():
            if any(above in self._coming for above, _ in usage.chain(txn, ino)):
                found.add(ino)
        return found

    def resume(self) -> None:
        """After the start: go on with what an earlier coordinator began."""
        for ino, realm in self._context.read(policy.scan):
            if realm.state != RealmState.ACTIVE:
                self._walk(ino)

    def tick(self) -> None:
        """Look again whether realms without a policy are empty by now."""
        waiting, self._waiting = self._waiting, set()
        for ino in sorted(waiting):
            self._walk(ino)

    # ------------------------------------------------------------------ what operators ask

    def list_all(self, path: str) -> pb.ListRealmsReply:
        """The realm of a path, or every realm when it is empty. Raises CairnError."""

        def look(txn: ReadTransaction) -> pb.ListRealmsReply:
            if path:
                return pb.ListRealmsReply(realms=[_report(txn, tree.walk(txn, path)[-1], path)])
            shown = (one for one in policy.scan(txn) if one[0] != TRASH_INO)
            found = [one for one in shown if one[0] != SNAPSHOTS_REALM or one[1].used_inodes]
            return pb.ListRealmsReply(realms=[policy.report(txn, ino, realm) for ino, realm in found])

        reply: pb.ListRealmsReply = self._context.read(look)
        return reply

    def set_policy(self, request: pb.SetPolicyRequest, answered: Answered) -> None:
        """Change the policy of a directory and answer; what is in it may follow later."""
        if self._context.sessions.recovering:
            answered(_refused(CairnError(common.ERROR_CODE_UNAVAILABLE, "clients are still coming back")))
            return
        self.look(_Setting(self, request, answered, self._context.leases.stamp))

    def look(self, setting: _Setting) -> None:
        """Find the directory, and have others give up what they may change there in their memory."""
        context, request = self._context, setting.request
        try:
            way = context.read(lambda txn: tree.walk(txn, request.path))
        except Exception as error:  # noqa: BLE001 - one request must not disturb the others
            way = context.read(lambda txn: _known_way(txn, request.path))
            if not self._recall_way(setting, way):
                self._end(setting, error)
            return
        if self._recall_way(setting, way[:-1]):
            return
        setting.ino = way[-1]
        if self._must_wait_inside(setting):
            return
        self._change(setting)

    def _must_wait_inside(self, setting: _Setting) -> bool:
        """Have others give up what they write from memory where a limit or trash comes; whether to wait."""
        context, leases, ino, request = self._context, self._context.leases, setting.ino, setting.request
        limited = bool(request.space_limit_bytes or request.inodes_limit)
        if not limited and request.trash_s <= 0:
            return False
        if limited:
            self._coming.add(ino)
        if request.trash_s > 0:
            self._trash_coming.add(ino)
        self.refresh()
        for written, holder in context.read(lambda txn: _inside(txn, ino, leases.writers())):
            if limited or leases.write_stamp(written) <= setting.stamp:
                context.recall(setting, holder, pb.RecallItem(ino=written))
        return setting.waits > 0

    def _recall_way(self, setting: _Setting, way: list[int]) -> bool:
        leases = self._context.leases
        for ino in way:
            writer = leases.writer(ino)
            if writer is not None and leases.write_stamp(ino) <= setting.stamp:
                self._context.recall(setting, writer, pb.RecallItem(ino=ino, keep=READ))
        return setting.waits > 0

    def _change(self, setting: _Setting) -> None:
        ino, request = setting.ino, setting.request

        def done(_value: Any, error: Exception | None) -> None:
            self._end(setting, error)
            if error is None:
                self._walk(ino)

        # The first trash of all gets its name in the root directory.
        named = (Touch(ROOT_INO, names=(TRASH,)),) if request.trash_s > 0 else ()
        self._chores.start(
            lambda _txn: Footprint((*named, Touch(ino))),
            lambda txn, env: policy.change(txn, request, ino, env.now_ns),
            done,
        )

    def _end(self, setting: _Setting, error: Exception | None) -> None:
        self._coming.discard(setting.ino)
        self._trash_coming.discard(setting.ino)
        self.refresh()
        if error is not None:
            setting.answered(_refused(error))
            return
        realm = self._context.read(lambda txn: _report(txn, setting.ino, setting.request.path))
        setting.answered(pb.SetPolicyReply(realm=realm))

    # ------------------------------------------------------------------ spreading

    def _walk(self, ino: int) -> None:
        """Do all that is left to be done for the realm of this directory."""
        if ino not in self._walking and self._context.read(lambda txn: _is_unfinished(txn, ino)):
            self._walking.add(ino)
            self._next(ino)

    def _next(self, ino: int) -> None:
        self._chores.start(
            lambda txn: retag.footprint(txn, ino),
            lambda txn, env: (retag.is_walked(txn, ino), retag.step(txn, ino, env)),
            lambda value, error: self._stepped(ino, value, error),
        )

    def _stepped(self, ino: int, value: Any, error: Exception | None) -> None:
        if error is not None:
            log.warning("realm_not_walked", realm=ino, reason=str(error))
        was_walked, done = value if error is None else (True, False)
        if not was_walked:
            self._next(ino)
            return
        self._walking.discard(ino)
        if done:
            self.refresh()
        else:
            self._waiting.add(ino)


def _known_way(txn: ReadTransaction, path: str) -> list[int]:
    """As far as there is something."""
    way = [ROOT_INO]
    for name in tree.names_of_path(path):
        entry = tree.find_entry(txn, way[-1], name)
        if entry is None:
            break
        way.append(entry.ino)
    return way


def _inside(txn: ReadTransaction, realm: int, writers: dict[int, str]) -> list[tuple[int, str]]:
    """Those of `writers` (session by inode) that are in `realm` or in realms in it."""
    within: dict[int, bool] = {}
    found: list[tuple[int, str]] = []
    for ino, session_id in writers.items():
        inode = tree.find_inode(txn, ino)
        if inode is None:
            continue
        if inode.realm not in within:
            within[inode.realm] = any(above == realm for above, _ in usage.chain(txn, inode.realm))
        if within[inode.realm]:
            found.append((ino, session_id))
    return found


def _is_unfinished(txn: ReadTransaction, ino: int) -> bool:
    realm = usage.find_realm(txn, ino)
    return realm is not None and realm.state != RealmState.ACTIVE


def _report(txn: ReadTransaction, ino: int, path: str) -> pb.RealmReport:
    """The realm of what is at `path`. Raises CairnError NOT_FOUND."""
    realm = ino if usage.find_realm(txn, ino) is not None else tree.load(txn, ino).realm
    report = policy.report(txn, realm, usage.load_realm(txn, realm))
    if realm == ino:
        report.path = path  # a file may have several
    return report


def _refused(error: Exception) -> pb.SetPolicyReply:
    if isinstance(error, CairnError):
        return pb.SetPolicyReply(error=error.code, detail=error.detail)
    log.error("policy_not_set", exc_info=error)
    return pb.SetPolicyReply(error=common.ERROR_CODE_INTERNAL, detail=type(error).__name__)
