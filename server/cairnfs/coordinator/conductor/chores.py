"""Changes that belong to no session: others give up what they know first, as for any other change."""

from collections.abc import Callable
from typing import Any, Final

from cairnfs.base.limits import FOOTPRINT_RETRIES_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.conductor.context import Context
from cairnfs.coordinator.leases import Pending
from cairnfs.coordinator.namespace.operation import Env, Footprint, FootprintChanged
from cairnfs.engine.interface import EngineBroken, Operation, Outcome, ReadTransaction, Transaction
from cairnfs.rpc.v1 import metadata_pb2 as pb

_NOBODY: Final = pb.Caller()

Plan = Callable[[ReadTransaction], Footprint]
Apply = Callable[[Transaction, Env], Any]
Done = Callable[[Any, Exception | None], None]


class _Chore(Pending):
    """One change, from its footprint to its commit."""

    __slots__ = ("apply", "attempts", "done", "flow", "footprint", "plan")

    def __init__(self, flow: "Chores", plan: Plan, apply: Apply, done: Done) -> None:
        super().__init__("")
        self.flow = flow
        self.plan = plan
        self.apply = apply
        self.done = done
        self.attempts = 0
        self.footprint = Footprint()

    def proceed(self) -> None:
        """Nobody believes what is to change any more."""
        self.flow.submit(self)


class Chores:
    """Carries them out, any number at once."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def start(self, plan: Plan, apply: Apply, done: Done) -> None:
        """Recall what `plan` finds on a snapshot, then commit `apply`; `done` gets its value or its error.

        When `apply` raises FootprintChanged all begins anew, some times. `done` never comes when it is not
        known whether the commit is durable: the coordinator ends then.
        """
        self._begin(_Chore(self, plan, apply, done))

    def _begin(self, chore: _Chore) -> None:
        context = self._context
        chore.attempts += 1
        try:
            chore.footprint = context.read(chore.plan)
        except Exception as error:  # noqa: BLE001 - a bug here must not disturb clients
            chore.done(None, error)
            return
        chore.touches = {touch.ino: touch for touch in chore.footprint.touches}
        context.leases.add_pending(chore)
        for touch in chore.touches.values():
            for holder in context.leases.holders(touch.ino):
                context.recall_touched(chore, holder, touch)
        if not chore.waits:
            self.submit(chore)

    def submit(self, chore: _Chore) -> None:
        """Commit the change."""
        env = Env(_NOBODY, self._context.clock.wall_ns(), chore.footprint)
        locks = tuple(keys.inode(ino) for ino in chore.touches)
        operation = Operation(lambda txn: chore.apply(txn, env), locks, prefetch=locks)
        self._context.commit(operation, lambda outcome: self._committed(chore, outcome))

    def _committed(self, chore: _Chore, outcome: Outcome) -> None:
        context, error = self._context, outcome.error
        if isinstance(error, EngineBroken):
            return
        context.leases.remove_pending(chore)
        for holder, ino in sorted(chore.provisional or ()):
            context.recall_touched(None, holder, chore.touches[ino])
        chore.provisional = None
        if isinstance(error, FootprintChanged) and chore.attempts <= FOOTPRINT_RETRIES_MAX:
            self._begin(chore)
            return
        chore.done(outcome.value, error)
