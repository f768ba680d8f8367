"""The trash as its users and time change it: entries go back into the tree, or for good."""

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
    """A request about some entries: what each came to, and how many are still being worked on."""

    def __init__(self, request: pb.ChangeTrashRequest, answered: Answered) -> None:
        self.request = request
        self.reply = pb.ChangeTrashReply()
        self._answered = answered
        self._left = len(request.names)
        for _ in request.names:
            self.reply.results.add()

    def done(self, place: int, error: Exception | None) -> None:
        """The entry at this place of the request is where it was to go, or stays because of an error."""
        if error is not None:
            result = self.reply.results[place]
            result.error, result.detail = explain(error, "trash")
        self._left -= 1
        if not self._left:
            self._answered(self.reply)


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
        """Restore entries, or remove them for good, all of them at once."""
        change = _Change(request, answered)
        count = len(request.names)
        if not count:
            answered(change.reply)
        elif count > TRASH_CHANGED_AT_ONCE or (request.to and count > 1):
            self._refuse(change, CairnError(common.ERROR_CODE_INVALID, "too many entries"))
        elif self._context.sessions.recovering:
            self._refuse(change, CairnError(common.ERROR_CODE_UNAVAILABLE, "clients are still coming back"))
        elif request.remove:
            for start in range(0, count, TRASH_EXPIRED_AT_ONCE):
                self._remove(change, range(start, min(count, start + TRASH_EXPIRED_AT_ONCE)))
        else:
            for place in range(count):
                self._restore(change, place)

    def _refuse(self, change: _Change, error: CairnError) -> None:
        for place in range(len(change.request.names)):
            change.done(place, error)

    def _remove(self, change: _Change, places: range) -> None:
        request = change.request
        names = [request.names[place] for place in places]
        inos = self._context.read(lambda txn: [_ino_of(txn, name, request.caller) for name in names])

        def then(error: Exception | None) -> None:
            for place, ino in zip(places, inos, strict=True):
                change.done(place, error if ino else CairnError(common.ERROR_CODE_NOT_FOUND, "no such entry"))

        self._end([ino for ino in inos if ino], then)

    def _restore(self, change: _Change, place: int) -> None:
        request = change.request
        name, to, caller = request.names[place], request.to, request.caller

        def plan(txn: ReadTransaction) -> Footprint:
            return restoring.footprint(restoring.plan(txn, name, to, caller))

        def apply(txn: Transaction, env: Env) -> None:
            restoring.apply(txn, restoring.plan(txn, name, to, caller), env)

        self._chores.start(plan, apply, lambda _value, error: change.done(place, error))


def _ino_of(txn: ReadTransaction, name: bytes, caller: pb.Caller) -> int:
    """The inode of an entry, 0 when there is none that the caller may see."""
    entry = trash.find_shown(txn, name, caller)
    return 0 if entry is None else entry.ino
