"""Snapshots and clones as operators ask for them, and the removal of trees, one transaction after another.

docs/internals/snapshots.md has the rules and what a crash leaves.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import REMOVED_INODES_MAX, TREE_PROGRESS_S
from cairnfs.base.logs import get_logger
from cairnfs.coordinator.conductor.chores import Chores
from cairnfs.coordinator.conductor.context import Context, explain
from cairnfs.coordinator.conductor.flushes import Flushes
from cairnfs.coordinator.conductor.orphans import Orphans
from cairnfs.coordinator.namespace import copy_tree, remove_tree, snapshots, tree, tree_jobs
from cairnfs.coordinator.namespace.operation import Env
from cairnfs.coordinator.namespace.snapshots import Begun, Place
from cairnfs.coordinator.recalls import Waiter
from cairnfs.coordinator.records import TreeJob, TreeKind, TreeState
from cairnfs.engine.interface import (
    EngineBroken,
    EngineError,
    Operation,
    Outcome,
    ReadTransaction,
    Transaction,
)
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

log = get_logger(__name__)

Tell = Callable[[pb.TreeProgress], None]
OpenView = Callable[[], AbstractContextManager[ReadTransaction]]
Find = Callable[[ReadTransaction], tuple[int, Place]]


class _Told:
    """Who asked for something, and hears how it gets on."""

    def __init__(self, context: Context, tell: Tell | None) -> None:
        self._context = context
        self._tell = tell
        self._next_s = context.clock.monotonic() + TREE_PROGRESS_S

    def progress(self, inodes: int, shared_bytes: int = 0) -> None:
        """So far; told from time to time."""
        now_s = self._context.clock.monotonic()
        if self._tell is not None and now_s >= self._next_s:
            self._next_s = now_s + TREE_PROGRESS_S
            self._tell(pb.TreeProgress(inodes=inodes, shared_bytes=shared_bytes))

    def done(self, inodes: int, shared_bytes: int = 0) -> None:
        """All of it."""
        if self._tell is not None:
            self._tell(pb.TreeProgress(inodes=inodes, shared_bytes=shared_bytes, done=True))

    def failed(self, error: Exception) -> None:
        """It is not done, and will not be."""
        if self._tell is not None:
            code, detail = explain(error, "tree")
            self._tell(pb.TreeProgress(error=code, detail=detail))


@dataclass(slots=True)
class _Copying:
    """One tree that is being copied, and the view that it is copied from."""

    place: Place
    source: int
    told: _Told
    begun: Begun
    view: ExitStack = field(default_factory=ExitStack)
    inodes: int = 0
    shared_bytes: int = 0

    @property
    def number(self) -> int:
        """The number of its job."""
        return self.begun.number


class _Removing(Waiter):
    """One tree that is being removed."""

    __slots__ = ("ends", "flow", "inodes", "never_seen", "number", "told", "walk")

    def __init__(self, flow: "Trees", number: int, job: TreeJob, told: _Told) -> None:
        super().__init__()
        self.flow = flow
        self.number = number
        self.never_seen = job.state is TreeState.ABANDONED
        self.walk = remove_tree.Walk(job.root)
        self.told = told
        self.inodes = job.inodes
        self.ends = False

    def proceed(self) -> None:
        """What lost its name is reaped."""
        self.flow.next_removal(self)


class Trees:
    """Copies and removes trees in the background."""

    def __init__(
        self,
        context: Context,
        chores: Chores,
        orphans: Orphans,
        flushes: Flushes,
        realms_changed: Callable[[], None],
        open_view: OpenView,
    ) -> None:
        """`open_view` gives the engine's last commit, for as long as it takes."""
        self._context = context
        self._chores = chores
        self._orphans = orphans
        self._flushes = flushes
        self._realms_changed = realms_changed
        self._open_view: Final = open_view
        self._copying: dict[int, _Copying] = {}
        self._removing: set[int] = set()
        self._later: list[Callable[[], None]] = []  # what the engine refused, to be tried at the next tick

    # ------------------------------------------------------------------ what operators ask

    def make_snapshot(self, request: pb.MakeSnapshotRequest, tell: Tell) -> None:
        """Make the snapshot `name` of a directory, as it is now."""

        def find(txn: ReadTransaction) -> tuple[int, Place]:
            directory = tree.walk(txn, request.path)[-1]
            tree.load_directory(txn, directory)
            return directory, Place(TreeKind.SNAPSHOT, directory, request.name)

        self._start_copy(find, tell)

    def clone(self, request: pb.CloneTreeRequest, tell: Tell) -> None:
        """Let `target` be a copy of `source`, a directory or anything else, as it is now."""

        def find(txn: ReadTransaction) -> tuple[int, Place]:
            above, slash, name = request.target.rstrip("/").rpartition("/")
            if not slash or not name:
                raise CairnError(common.ERROR_CODE_EXISTS, f"{request.target} exists")
            source = tree.walk(txn, request.source)[-1]
            directory = tree.walk(txn, above)[-1]
            return source, Place(TreeKind.CLONE, directory, name.encode(errors="surrogateescape"))

        self._start_copy(find, tell)

    def delete_snapshot(self, request: pb.DeleteSnapshotRequest, tell: Tell) -> None:
        """Remove the snapshot `name` of a directory: its name at once, what is in it by and by."""
        told = _Told(self._context, tell)

        def find(txn: ReadTransaction) -> tuple[int, Place]:
            place = Place(TreeKind.SNAPSHOT, tree.walk(txn, request.path)[-1], request.name)
            return snapshots.find(txn, place), place

        def go_on(_root: int, place: Place) -> None:
            def detached(value: Any, error: Exception | None) -> None:
                if error is not None:
                    told.failed(error)
                    return
                if value.shelf:
                    self._orphans.add(value.shelf)
                    self._orphans.check(value.shelf)
                self._remove(value.number, told)

            self._chores.start(
                lambda txn: snapshots.footprint(txn, place, snapshots.find(txn, place)),
                lambda txn, env: snapshots.detach(txn, place, env),
                detached,
            )

        self._when_saved(find, told, go_on)

    def list_snapshots(self, path: str) -> pb.ListSnapshotsReply:
        """The snapshots of a directory. Raises CairnError NOT_FOUND, NOT_DIRECTORY."""

        def look(txn: ReadTransaction) -> pb.ListSnapshotsReply:
            directory = tree.walk(txn, path)[-1]
            tree.load_directory(txn, directory)
            return pb.ListSnapshotsReply(snapshots=snapshots.report(txn, directory, path))

        reply: pb.ListSnapshotsReply = self._context.read(look)
        return reply

    def _when_saved(self, find: Find, told: _Told, go_on: Callable[[int, Place], None]) -> None:
        """Go on with what `find` finds when all that calls have changed before now is committed."""
        context = self._context
        if context.sessions.recovering:
            told.failed(CairnError(common.ERROR_CODE_UNAVAILABLE, "clients are still coming back"))
            return

        def saved(error: CairnError | None) -> None:
            try:
                if error is not None:
                    raise error
                ino, place = context.read(find)
            except Exception as refusal:  # noqa: BLE001 - one request must not disturb the others
                told.failed(refusal)
                return
            go_on(ino, place)

        self._flushes.start(saved)

    # ------------------------------------------------------------------ from time to time

    def resume(self) -> None:
        """After the start: give up copies whose view is gone, and go on removing."""
        for number, job in self._context.read(tree_jobs.scan):
            if number in self._copying or number in self._removing:
                continue
            if job.state is TreeState.COPYING:
                log.warning("copy_of_tree_given_up", tree=number, name=job.name.decode(errors="replace"))
                self._give_up(number, lambda: None)
            else:
                self._remove(number, _Told(self._context, None))

    def tick(self) -> None:
        """Try again what the engine refused."""
        later, self._later = self._later, []
        for again in later:
            again()

    def close(self) -> None:
        """End all views: nothing is copied any more."""
        for copying in self._copying.values():
            copying.view.close()

    # ------------------------------------------------------------------ copying

    def _start_copy(self, find: Find, tell: Tell) -> None:
        told = _Told(self._context, tell)

        def go_on(source: int, place: Place) -> None:
            now_ns = self._context.clock.wall_ns()
            operation = Operation(lambda txn: snapshots.begin(txn, place, now_ns))
            self._context.commit(operation, lambda outcome: self._begun(source, place, told, outcome))

        self._when_saved(find, told, go_on)

    def _begun(self, source: int, place: Place, told: _Told, outcome: Outcome) -> None:
        """The job is durable, so no chunk goes any more: now the view can be taken."""
        if isinstance(outcome.error, EngineBroken):
            return
        if outcome.error is not None:
            told.failed(outcome.error)
            return
        copying = _Copying(place, source, told, outcome.value)
        self._copying[copying.number] = copying
        self._realms_changed()
        try:
            view = copying.view.enter_context(self._open_view())
            begun = copying.begun
            ctime_ns = begun.now_ns if place.kind is TreeKind.CLONE else 0
            copy = copy_tree.Copy(view, begun.number, source, begun.realm, begun.numbers, ctime_ns)
        except Exception as error:  # noqa: BLE001 - one request must not disturb the others
            self._abandon(copying, error)
            return
        self._next_portion(copying, copy)

    def _next_portion(self, copying: _Copying, copy: copy_tree.Copy) -> None:
        try:
            portion = self._context.read(copy.portion)
        except Exception as error:  # noqa: BLE001 - one request must not disturb the others
            self._abandon(copying, error)
            return
        self._submit(copying, copy, portion)

    def _submit(self, copying: _Copying, copy: copy_tree.Copy, portion: copy_tree.Portion) -> None:
        number, realm, now_ns = copying.number, copying.begun.realm, self._context.clock.wall_ns()
        used = copy_tree.keys_of(number, portion)
        operation = Operation(
            lambda txn: copy_tree.apply(txn, number, realm, portion, now_ns), locks=used, prefetch=used
        )
        self._context.commit(operation, lambda outcome: self._made(copying, copy, portion, outcome))

    def _made(
        self, copying: _Copying, copy: copy_tree.Copy, portion: copy_tree.Portion, outcome: Outcome
    ) -> None:
        error = outcome.error
        if isinstance(error, EngineBroken):
            return
        if isinstance(error, EngineError):
            self._later.append(lambda: self._submit(copying, copy, portion))
            return
        if error is not None:
            self._abandon(copying, error)
            return
        copy.more_numbers(outcome.value)
        copying.inodes += portion.inodes
        copying.shared_bytes += portion.allocated_bytes
        copying.told.progress(copying.inodes, copying.shared_bytes)
        if portion.last:
            self._attach(copying)
        else:
            self._next_portion(copying, copy)

    def _attach(self, copying: _Copying) -> None:
        copying.view.close()

        def attached(_value: Any, error: Exception | None) -> None:
            if error is not None:
                self._abandon(copying, error)
                return
            del self._copying[copying.number]
            copying.told.done(copying.inodes, copying.shared_bytes)
            self._forget(copying.number, lambda: None)

        self._chores.start(
            lambda txn: snapshots.footprint(txn, copying.place),
            lambda txn, env: snapshots.attach(txn, copying.number, env),
            attached,
        )

    def _abandon(self, copying: _Copying, error: Exception) -> None:
        """The copy cannot be finished: nobody has seen it, and it goes again."""
        copying.view.close()
        self._copying.pop(copying.number, None)
        self._give_up(copying.number, lambda: copying.told.failed(error))

    def _give_up(self, number: int, then: Callable[[], None]) -> None:
        def given_up(outcome: Outcome) -> None:
            if isinstance(outcome.error, EngineBroken):
                return
            if outcome.error is not None:
                self._later.append(lambda: self._give_up(number, then))
                return
            then()
            if outcome.value:
                self._remove(number, _Told(self._context, None))

        operation = Operation(lambda txn: tree_jobs.give_up(txn, number))
        self._context.commit(operation, given_up)

    # ------------------------------------------------------------------ removing

    def _remove(self, number: int, told: _Told) -> None:
        job = self._context.read(lambda txn: tree_jobs.find(txn, number))
        if job is None or number in self._removing:
            return
        self._removing.add(number)
        self.next_removal(_Removing(self, number, job, told))

    def next_removal(self, removing: _Removing) -> None:
        """Remove some more, unless what was removed waits to be reaped."""
        orphans = self._orphans
        if removing.ends:
            self._removing.discard(removing.number)
            removing.told.done(removing.inodes)
            return
        if orphans.reaping > REMOVED_INODES_MAX and orphans.await_reaping(removing):
            return
        job = self._context.read(lambda txn: tree_jobs.find(txn, removing.number))
        if job is None or not job.root:
            self._forget(removing.number, lambda: self._removed_all(removing))
            return
        step: remove_tree.Step = self._context.read(removing.walk.step)
        closed = {ino for _, ino in step.entries} if removing.never_seen else set[int]()

        def apply(txn: Transaction, env: Env) -> remove_tree.Removed:
            return remove_tree.apply(txn, removing.number, step, closed, env)

        self._chores.start(
            lambda _txn: step.footprint(),
            apply,
            lambda value, error: self._removed(removing, value, error),
        )

    def _removed(self, removing: _Removing, removed: Any, error: Exception | None) -> None:
        if error is not None:
            log.warning("tree_not_removed", tree=removing.number, reason=str(error))
            self._later.append(lambda: self.next_removal(removing))
            return
        for ino in removed.orphans:
            self._orphans.add(ino)
        for ino in removed.orphans:
            self._orphans.check(ino)
        removing.inodes += removed.inodes
        removing.told.progress(removing.inodes)
        self.next_removal(removing)

    def _removed_all(self, removing: _Removing) -> None:
        removing.ends = True
        if not self._orphans.await_reaping(removing):
            self.next_removal(removing)

    def _forget(self, number: int, then: Callable[[], None]) -> None:
        """The tree is gone, or has its name: so does its job go."""

        def forgotten(outcome: Outcome) -> None:
            if isinstance(outcome.error, EngineBroken):
                return
            if outcome.error is not None:
                self._later.append(lambda: self._forget(number, then))
            elif outcome.value:
                then()
            else:
                self._forget(number, then)

        self._context.commit(Operation(lambda txn: tree_jobs.end(txn, number)), forgotten)
