"""Small things to wait at: a slot for one value, a bell, a budget of bytes; cheap and safe to cancel."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

import trio

from cairnfs.base.errors import CairnError

T = TypeVar("T")


class Slot(Generic[T]):
    """Holds one value, or one exception, and at most one waiting task. trio thread only."""

    __slots__ = ("_error", "_task", "_value", "filled")

    def __init__(self) -> None:
        self.filled = False
        self._value: T | None = None
        self._error: Exception | None = None
        self._task: trio.lowlevel.Task | None = None

    def put(self, value: T) -> None:
        """Fill the slot and wake whoever waits; a second value is ignored."""
        self._fill(value, None)

    def put_error(self, error: Exception) -> None:
        """Make `wait` raise `error`; ignored when the slot is filled."""
        self._fill(None, error)

    def _fill(self, value: T | None, error: Exception | None) -> None:
        if self.filled:
            return
        self.filled = True
        self._value, self._error = value, error
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self) -> T:
        """The value, or its exception. Cancelling leaves the slot usable."""
        if not self.filled:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

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


class ByteBudget:
    """Bounds how many bytes are held at once, first come, first served. trio thread only."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._queue: deque[tuple[int, Slot[None]]] = deque()

    async def acquire(self, size_bytes: int) -> int:
        """Wait until `size_bytes` fit, or the limit if that is less; returns what to give to `release`."""
        size_bytes = min(size_bytes, self._limit_bytes)
        if not self._queue and self._held_bytes + size_bytes <= self._limit_bytes:
            self._held_bytes += size_bytes
            return size_bytes
        entry = (size_bytes, Slot[None]())
        self._queue.append(entry)
        try:
            await entry[1].wait()
        except BaseException:
            if entry[1].filled:
                self._held_bytes -= size_bytes
            else:
                self._queue.remove(entry)
            self._admit()
            raise
        return size_bytes

    def release(self, size_bytes: int) -> None:
        """Give back what `acquire` returned."""
        self._held_bytes -= size_bytes
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._held_bytes + self._queue[0][0] <= self._limit_bytes:
            size_bytes, slot = self._queue.popleft()
            self._held_bytes += size_bytes
            slot.put(None)


async def gather(works: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """The results of all, run at once; the first error in order when all have ended."""
    if len(works) == 1:
        return [await works[0]()]
    results: list[T | None] = [None] * len(works)
    errors: dict[int, CairnError] = {}

    async def run(index: int) -> None:
        try:
            results[index] = await works[index]()
        except CairnError as error:
            errors[index] = error

    async with trio.open_nursery() as nursery:
        for index in range(len(works)):
            nursery.start_soon(run, index)
    if errors:
        raise errors[min(errors)]
    return cast("list[T]", results)
