"""What pyfuse3's loop takes for trio: its tasks wait here, and one task switch less costs each request.

pyfuse3 asks its module attribute `trio` for a lock, for readability and for a nursery. Its own way costs two
rounds of the scheduler for every request. Here one worker waits for the descriptor, takes what has
arrived request by request without waiting in between, and only when a handler really waits does another
worker take its place.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any

import trio

from cairnfs.base.limits import FUSE_LINGER_NS, FUSE_LINGER_RARELY, FUSE_REQUESTS_AT_ONCE
from cairnfs.fuse.lowlevel import lib

_Loop = Callable[..., Awaitable[None]]


class Worker:
    """A task of pyfuse3's. Whatever cancels `scope` ends the request that it handles, and then the task."""

    __slots__ = ("brisk", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.brisk = False  # it has handled a request without waiting


class _NoLock:
    """Stands for the lock that lets one task read: `wait_readable` sees to that itself."""

    async def __aenter__(self) -> None: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Nursery:
    def __init__(self, workers: "Workers", nursery: trio.Nursery) -> None:
        self._workers = workers
        self._nursery = nursery

    def start_soon(self, loop: _Loop, *args: Any, name: object = None) -> None:
        self._nursery.start_soon(self._workers.run, loop, args, name=name)


class Workers:
    """The part of trio's interface that pyfuse3 uses. `drain` takes what the supplement kept for later."""

    Lock = _NoLock
    ClosedResourceError = trio.ClosedResourceError
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, drain: Callable[[], None]) -> None:
        self.lowlevel = self
        self._drain = drain
        self._of_task: dict[trio.lowlevel.Task, Worker] = {}
        self._spare = trio.lowlevel.ParkingLot()
        self._polling = False
        self._taken = 0
        self._in_vain = 0  # times that lingering brought nothing, since it last did
        self._passed_over = 0

    @asynccontextmanager
    async def open_nursery(self) -> AsyncIterator[_Nursery]:
        """For the workers."""
        async with trio.open_nursery() as nursery:
            yield _Nursery(self, nursery)

    async def run(self, loop: _Loop, args: tuple[Any, ...]) -> None:
        """One worker, from its first request to its last."""
        task = trio.lowlevel.current_task()
        self._of_task[task] = worker = Worker()
        try:
            with worker.scope, working(worker):
                await loop(*args)
        finally:
            del self._of_task[task]
            self.hand_over()

    async def wait_readable(self, descriptor: int) -> None:
        """Return when a request can be taken; raise ClosedResourceError to a worker that was cancelled."""
        worker = self._of_task[trio.lowlevel.current_task()]
        if worker.scope.cancel_called:
            raise trio.ClosedResourceError("the last request of this worker was interrupted")
        while True:
            if lib.cairn_waiting_later or lib.cairn_absorbed_bytes:
                self._drain()
            if self._polling:
                await self._spare.park()
            elif self._has_come(self._patience_ns(worker)):
                break
            else:
                await self._poll(descriptor)
        self._taken += 1
        if self._taken % FUSE_REQUESTS_AT_ONCE == 0:
            await self._let_others_run()
        if lib.cairn_absorbed_bytes:
            self._drain()  # writes that came before this request
        worker.brisk = True
        _now.worker, _now.workers = worker, self

    def _patience_ns(self, worker: Worker) -> int:
        """How long to hold up everything else for the next request.

        A caller that got its answer at once will often call again at once, and then neither the scheduler
        nor epoll needs to be asked. Where that does not come true, it is tried less and less often.
        """
        if not worker.brisk:
            return 0
        worker.brisk = False
        if self._passed_over < self._in_vain:
            self._passed_over += 1
            return 0
        self._passed_over = 0
        return FUSE_LINGER_NS

    def _has_come(self, patience_ns: int) -> bool:
        come = not lib.cairn_rest(patience_ns)
        if patience_ns:
            self._in_vain = 0 if come else min(2 * self._in_vain + 1, FUSE_LINGER_RARELY)
        return come

    async def _poll(self, descriptor: int) -> None:
        self._polling = True
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            self._polling = False

    async def _let_others_run(self) -> None:
        """Nobody else may take the request meanwhile."""
        self._polling = True
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._polling = False

    def hand_over(self) -> None:
        """The running worker will be busy, or is gone: let a spare one wait for requests."""
        if not self._polling:
            self._spare.unpark()


class _Now:
    """Who handles the request that was dispatched in the running step."""

    __slots__ = ("worker", "workers")

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.workers: Workers | None = None


_now = _Now()


@contextmanager
def working(worker: Worker) -> Iterator[Worker]:
    """Handlers called in the block run for `worker`."""
    _now.worker = worker
    try:
        yield worker
    finally:
        _now.worker = _now.workers = None


def begins_to_wait() -> trio.CancelScope:
    """Call it when the handler of the request that was dispatched in this step has to wait.

    Another worker takes over; the scope ends the handler when it is cancelled.
    """
    worker, workers = _now.worker, _now.workers
    if worker is None:
        raise RuntimeError("a handler was called outside of a worker")
    worker.brisk = False
    if workers is not None:
        workers.hand_over()
    return worker.scope
