"""The thread that speaks gRPC for the client, and the two crossings between it and trio.

One background thread runs asyncio (uvloop) with all channels. Work crosses in batches: each direction
has one queue and at most one wake-up under way, however many messages wait (docs/decisions/0003).
"""

import asyncio
import atexit
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import uvloop

from cairnfs.base.logs import get_logger

_log = get_logger(__name__)

_Call = tuple[Callable[..., None], tuple[Any, ...]]

_idle_loops: list[asyncio.AbstractEventLoop] = []


def _take_loop() -> asyncio.AbstractEventLoop:
    """An event loop that no thread runs.

    Loops are kept for the next wire and closed only when the process ends: gRPC may still have events of
    cancelled calls for a loop after its last channel was closed, and its poller fails on a closed loop.
    """
    if _idle_loops:
        return _idle_loops.pop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    loop.set_exception_handler(_on_loop_error)
    atexit.register(loop.close)
    return loop


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what a callback raised, except that another event loop of this process took gRPC's events."""
    if isinstance(context.get("exception"), BlockingIOError):
        return
    loop.default_exception_handler(context)


class Wire:
    """Runs callables in the wire thread (`post`) and on the trio thread (`post_to_trio`), in order."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._loop = _take_loop()
        self._to_wire: deque[_Call] = deque()
        self._to_trio: deque[_Call] = deque()
        self._wire_woken = False
        self._trio_woken = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="cairnfs-wire")
        self._stopped = False

    # -------------------------------------------------------------- crossings

    def post(self, work: Callable[..., None], *args: Any) -> None:
        """Run `work(*args)` in the wire thread, after what was posted before; trio thread only."""
        if self._stopped:
            return
        self._to_wire.append((work, args))
        if not self._wire_woken:
            self._wire_woken = True
            self._loop.call_soon_threadsafe(self._drain_in_wire)

    def _drain_in_wire(self) -> None:
        self._wire_woken = False
        while self._to_wire:
            work, args = self._to_wire.popleft()
            work(*args)

    def post_to_trio(self, work: Callable[..., None], *args: Any) -> None:
        """Run `work(*args)` on the trio thread, after what was posted before; wire thread only.

        `work` must not raise. Dropped when trio has ended.
        """
        self._to_trio.append((work, args))
        if not self._trio_woken:
            self._trio_woken = True
            try:
                self._token.run_sync_soon(self._drain_in_trio)
            except trio.RunFinishedError:
                self._to_trio.clear()

    def _drain_in_trio(self) -> None:
        self._trio_woken = False
        while self._to_trio:
            work, args = self._to_trio.popleft()
            work(*args)

    # -------------------------------------------------------------- the thread

    def spawn(self, body: Any) -> None:
        """Start a coroutine as a task of the wire thread, which owns it; wire thread only."""
        task = self._loop.create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the wire thread failed", exc_info=error)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._finish_tasks())
        asyncio.set_event_loop(None)

    async def _finish_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start(self) -> None:
        """Start the thread; returns once it runs."""
        running = trio.Event()
        self._thread.start()
        self.post(self.post_to_trio, running.set)
        await running.wait()

    async def stop(self) -> None:
        """Drop every stream and wait until the thread has gone; nothing can be posted afterwards."""
        self.post(self._loop.stop)
        self._stopped = True
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)
        _idle_loops.append(self._loop)


@asynccontextmanager
async def open_wire() -> AsyncGenerator[Wire]:
    """A running wire thread; at the end every stream is dropped and the thread has gone."""
    wire = Wire(trio.lowlevel.current_trio_token())
    await wire.start()
    try:
        yield wire
    finally:
        await wire.stop()
