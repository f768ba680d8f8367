"""A slot that one task waits at for one value: cheaper than an event and safe to cancel."""

from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")


class Slot(Generic[T]):
    """Holds one value, or one exception, and at most one waiting task. trio thread only."""

    __slots__ = ("_result", "_task")

    def __init__(self) -> None:
        self._result: outcome.Value[T] | outcome.Error | None = None
        self._task: trio.lowlevel.Task | None = None

    @property
    def filled(self) -> bool:
        """Whether there is something to take."""
        return self._result is not None

    def put(self, value: T) -> None:
        """Fill the slot and wake whoever waits; a second value is ignored."""
        self._fill(outcome.Value(value))

    def put_error(self, error: Exception) -> None:
        """Make `wait` raise `error`; ignored when the slot is filled."""
        self._fill(outcome.Error(error))

    def _fill(self, result: "outcome.Value[T] | outcome.Error") -> None:
        if self._result is not None:
            return
        self._result = result
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self) -> T:
        """The value, or its exception. Cancelling leaves the slot usable."""
        if self._result is None:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        assert self._result is not None
        return self._result.unwrap()

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Bell:
    """A repeatable wake-up: `ring` is remembered until one `wait` has taken it. trio thread only."""

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._rung = False
        self._task: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        """Wake the waiting task, or the next one to wait."""
        self._rung = True
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Return once it has rung since the last time; one task at a time."""
        if not self._rung:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._rung = False

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
