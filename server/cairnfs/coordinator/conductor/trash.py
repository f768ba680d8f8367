"""The trash as its users and time change it: entries go back into the tree, or for good."""

from collections import deque
from collections.abc import Callable
from typing import Any

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import TRASH_CHANGED_AT_ONCE, TRASH_EXPIRED_AT_ONCE, TRASH_LOOK_IDLE_S, TRASH_LOOK_S
from cairnfs.base.logs import get_logger
from cairnfs.coordinator.conductor.chores import Chores
from cairnfs.coordinator.conductor.context import Context, explain
from cairnfs.coordinator.conductor.orphans import Orphans
from cairnfs.coordinator.namespace import restoring, trash, trash_list
from cairnfs.coordinator.namespace.operation import Env, Footprint
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

log = get_logger(__name__)

Answered = Callable[[pb.ChangeTrashReply], None]


class _Change:
    """A request about some entries: which are still to be looked at, and what the others came to."""

    def __init__(self, request: pb.ChangeTrashRequest, answered: Answered) -> None:
        self.request = request
        self.answered = answered
        self.names = deque(request.names)
        self.reply = pb.ChangeTrashReply()
        self.busy = False
        self.again = False  # a step ended while it was being started


class Trash:
    """Takes entries out of the trash."""

    def __init__(self, context: Context, chores: Chores, orphans: Orphans) -> None:
        self._context = context
        self._chores = chores
        self._orphans = orphans
        self._ending = False
        self._look_s = float("-inf")  # when to look again whose time is over

    def list_entries(self, request: pb.ListTrashRequest) -> pb.ListTrashReply:
        """A part of what is in the trash."""
        reply: pb.ListTrashReply = self._context.read(lambda txn: trash_list.read(txn, request))
        return reply

    # ------------------------------------------------------------------ whose time is over

    def tick(self) -> None:
        """Remove for good what has been kept as long as it was to be."""
        now_s = self._context.clock.monotonic()
        if self._ending or self._context.sessions.recovering or now_s < self._look_s:
            return
        self._look_s = now_s + (TRASH_LOOK_S if self._context.kept_s else TRASH_LOOK_IDLE_S)
        now_ns = self._context.clock.wall_ns()
        inos = self._context.read(lambda txn: trash.list_ended(txn, now_ns, TRASH_EXPIRED_AT_ONCE))
        if inos:
            self._ending = True
            self._end(inos, self._ended)

    def _ended(self, error: Exception | None) -> None:
        self._ending = False
        if error is not None:
            log.warning("trash_not_emptied", reason=str(error))
        else:
            self._look_s = float("-inf")
            self.tick()

    def _end(self, inos: list[int], then: Callable[[Exception | None], None]) -> None:
        def done(ended: Any, error: Exception | None) -> None:
            for ino in ended if error is None else ():
                self._orphans.add(ino)
                self._orphans.check(ino)
            then(error)

        self._chores.start(
            lambda _txn: trash.footprint(inos), lambda txn, env: trash.end(txn, inos, env), done
        )

    # ------------------------------------------------------------------ what users ask

    def change(self, request: pb.ChangeTrashRequest, answered: Answered) -> None:
        """Restore entries, or remove them for good, one after another."""
        change = _Change(request, answered)
        if len(request.names) > TRASH_CHANGED_AT_ONCE or (request.to and len(request.names) > 1):
            self._fail_all(change, CairnError(common.ERROR_CODE_INVALID, "too many entries"))
        elif self._context.sessions.recovering:
            error = CairnError(common.ERROR_CODE_UNAVAILABLE, "clients are still coming back")
            self._fail_all(change, error)
        else:
            self._next(change)

    def _fail_all(self, change: _Change, error: CairnError) -> None:
        for _ in change.names:
            change.reply.results.add(error=error.code, detail=error.detail)
        change.answered(change.reply)

    def _next(self, change: _Change) -> None:
        change.again = True
        while change.again and not change.busy:
            change.again, change.busy = False, True
            if not change.names:
                change.answered(change.reply)
            elif change.request.remove:
                self._remove(change)
            else:
                self._restore(change)
            change.busy = False

    def _remove(self, change: _Change) -> None:
        count = min(len(change.names), TRASH_EXPIRED_AT_ONCE)
        names = [change.names.popleft() for _ in range(count)]
        caller = change.request.caller
        inos = self._context.read(lambda txn: [_ino_of(txn, name, caller) for name in names])
        for ino in inos:
            result = change.reply.results.add()
            if not ino:
                result.error, result.detail = common.ERROR_CODE_NOT_FOUND, "there is no such entry"

        def then(error: Exception | None) -> None:
            if error is not None:
                for ino, result in zip(inos, change.reply.results[-count:], strict=True):
                    if ino:
                        result.error, result.detail = explain(error, "trash")
            self._next(change)

        self._end([ino for ino in inos if ino], then)

    def _restore(self, change: _Change) -> None:
        name, to, caller = change.names.popleft(), change.request.to, change.request.caller

        def plan(txn: ReadTransaction) -> Footprint:
            return restoring.footprint(restoring.plan(txn, name, to, caller))

        def apply(txn: Transaction, env: Env) -> None:
            restoring.apply(txn, restoring.plan(txn, name, to, caller), env)

        def done(_value: Any, error: Exception | None) -> None:
            result = change.reply.results.add()
            if error is not None:
                result.error, result.detail = explain(error, "trash")
            self._next(change)

        self._chores.start(plan, apply, done)


def _ino_of(txn: ReadTransaction, name: bytes, caller: pb.Caller) -> int:
    """The inode of an entry, 0 when there is none that the caller may see."""
    entry = trash.find_shown(txn, name, caller)
    return 0 if entry is None else entry.ino
