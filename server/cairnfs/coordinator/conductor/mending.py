"""Repairs of fsck: whoever has leases on what is mended gives them up first, as for any other change."""

from collections.abc import Callable

from cairnfs.coordinator.conductor.context import Context
from cairnfs.coordinator.leases import Pending
from cairnfs.coordinator.namespace.mends import Mend
from cairnfs.coordinator.namespace.operation import Touch
from cairnfs.engine.interface import Operation, Outcome
from cairnfs.rpc.v1 import metadata_pb2 as pb

Done = Callable[[Outcome], None]


class _Mending(Pending):
    """One repair; belongs to no session."""

    __slots__ = ("done", "flow", "mend")

    def __init__(self, flow: "Mending", mend: Mend, done: Done) -> None:
        super().__init__("")
        self.flow = flow
        self.mend = mend
        self.done = done
        self.touches = {ino: Touch(ino) for ino in mend.touches}

    def proceed(self) -> None:
        """All who had a lease have given it up."""
        self.flow.recall_or_commit(self)


class Mending:
    """Carries out repairs."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def start(self, mend: Mend, done: Done) -> None:
        """Mend one finding; `done` gets the outcome, whose value is whether there was something to mend."""
        mending = _Mending(self, mend, done)
        self._context.leases.add_pending(mending)
        self.recall_or_commit(mending)

    def recall_or_commit(self, mending: _Mending) -> None:
        """Recall what sessions hold (again), or go on."""
        context = self._context
        for ino in mending.touches:
            for holder in context.leases.holders(ino):
                context.recall(mending, holder, pb.RecallItem(ino=ino))
        if not mending.waits:
            now_ns = context.clock.wall_ns()
            operation = Operation(lambda txn: mending.mend.apply(txn, now_ns))
            context.commit(operation, lambda outcome: self._committed(mending, outcome))

    def _committed(self, mending: _Mending, outcome: Outcome) -> None:
        self._context.leases.remove_pending(mending)
        for holder, ino in sorted(mending.provisional or ()):  # told of the old state meanwhile
            self._context.recall(None, holder, pb.RecallItem(ino=ino))
        mending.done(outcome)
