"""Virtual time: one timeline of events, and an asyncio loop for every simulated process on it.

Clients are trio tasks; servers are asyncio code. Both live on the clock of one trio run, which jumps to
whatever comes next. A process may be paused (its events wait), killed (they never happen) and have a clock
that goes wrong. Nothing here knows threads, so one seed makes one run.
"""

import asyncio
import heapq
import itertools
import math
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import Context
from random import Random
from typing import Any, Final, cast

import trio

from cairnfs.client.waiting import Bell
from tests.power.recording import Killed

_EPOCH_NS: Final = 1_700_000_000_000_000_000


class Timeline:
    """What will happen, in order of its time; what has the same time happens in the order it was planned."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._bell = Bell()
        self._waking_s = math.inf
        self.happened = 0

    def at(self, when_s: float, event: Callable[[], object]) -> None:
        """Plan an event for a time of the trio clock."""
        heapq.heappush(self._events, (when_s, next(self._numbers), event))
        if when_s < self._waking_s:
            self._bell.ring()

    def after(self, delay_s: float, event: Callable[[], object]) -> None:
        """Plan an event for `delay_s` from now."""
        self.at(trio.current_time() + delay_s, event)

    async def run(self) -> None:
        """Let everything happen, until cancelled."""
        events = self._events
        while True:
            self._waking_s = -math.inf
            while events and events[0][0] <= trio.current_time():
                self.happened += 1
                heapq.heappop(events)[2]()
            self._waking_s = events[0][0] if events else math.inf
            with trio.CancelScope(deadline=self._waking_s):
                await self._bell.wait()


class SimClock:
    """The clock of one process: it may be wrong by an offset, and go faster or slower."""

    def __init__(self, rate: float = 1.0, offset_s: float = 0.0) -> None:
        self.rate = rate
        self.offset_s = offset_s

    def monotonic(self) -> float:
        """Seconds, as this process counts them."""
        return trio.current_time() * self.rate + self.offset_s

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch, as this process believes."""
        return _EPOCH_NS + int(self.monotonic() * 1e9)

    def true_s(self, own_s: float) -> float:
        """The time of the timeline at which this clock shows `own_s`."""
        return (own_s - self.offset_s) / self.rate


class SimLoop:
    """As much of an event loop as the servers use; its time is the clock of its process."""

    def __init__(self, process: "Process") -> None:
        self.process = process
        self.ready: deque[asyncio.Handle] = deque()

    def time(self) -> float:
        return self.process.clock.monotonic()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, _as_loop(self), context)
        if self.process.dead:
            return handle
        if not self.ready:
            self.process.wake()
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, _as_loop(self), context)
        if not self.process.dead:
            self.process.timeline.at(self.process.clock.true_s(when), lambda: self._due(handle))
        return handle

    def _due(self, handle: asyncio.TimerHandle) -> None:
        if not handle.cancelled():
            if not self.ready:
                self.process.wake()
            self.ready.append(handle)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=_as_loop(self))

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=_as_loop(self), name=name, context=context)
        self.process.tasks[task] = None
        task.add_done_callback(lambda done: self.process.tasks.pop(done, None))
        return task

    def run_in_executor(self, _executor: Any, work: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        return self.process.work(lambda: work(*args))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.process.complain(context)


def _as_loop(loop: SimLoop) -> asyncio.AbstractEventLoop:
    """What asyncio takes it for: it has the few methods that are called."""
    return cast("asyncio.AbstractEventLoop", loop)


class Process:
    """One simulated process with an event loop of its own."""

    def __init__(self, name: str, timeline: Timeline, rng: Random, complaints: list[str]) -> None:
        self.name = name
        self.timeline = timeline
        self.rng = rng
        self.clock = SimClock()
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.loop: Any = SimLoop(self)
        self.paused_until_s = 0.0
        self.waiting: list[Callable[[], object]] = []  # until it goes on
        self.dead = False
        self.machine: AbstractContextManager[object] = nullcontext()  # entered while the process runs
        self.delay_s: Callable[[], float] = lambda: 0.0  # of work in a thread
        self._complaints = complaints

    def wake(self) -> None:
        """Something is ready to run."""
        self.timeline.after(0.0, self._run_ready)

    def _run_ready(self) -> None:
        if self.dead:
            return
        if trio.current_time() < self.paused_until_s:
            self.waiting.append(self._run_ready)
            return
        ready = self.loop.ready
        with self.entered():
            while ready and not self.dead:
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()

    @contextmanager
    def entered(self) -> Generator[None]:
        """Code in here runs on this process."""
        before, hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
        asyncio._set_running_loop(self.loop)
        sys.set_asyncgen_hooks(None, None)  # trio would take them for its own
        try:
            with self.machine:
                yield
        finally:
            asyncio._set_running_loop(before)
            sys.set_asyncgen_hooks(*hooks)

    def work(self, job: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Do something in a "thread": it takes a while, and happens at one moment in it."""
        future: asyncio.Future[Any] = asyncio.Future(loop=self.loop)
        if self.dead:
            return future
        delay_s = self.delay_s()
        self.timeline.after(delay_s * self.rng.random(), lambda: self._work(job, future, delay_s))
        return future

    def _work(self, job: Callable[[], Any], future: "asyncio.Future[Any]", delay_s: float) -> None:
        if self.dead:
            return
        if trio.current_time() < self.paused_until_s:
            self.waiting.append(lambda: self._work(job, future, delay_s))
            return
        outcome: Any = None
        problem: Exception | None = None
        with self.entered():
            try:
                outcome = job()
            except Exception as error:  # noqa: BLE001 - it is the future's
                problem = error
            except Killed:
                assert self.dead, "only a killed process stops like that"
        if not self.dead:
            self.timeline.after(delay_s / 2, lambda: self._worked(future, outcome, problem))

    def _worked(self, future: "asyncio.Future[Any]", outcome: Any, problem: Exception | None) -> None:
        if self.dead or future.done():
            return
        if problem is None:
            future.set_result(outcome)
        else:
            future.set_exception(problem)

    def pause(self, seconds: float) -> None:
        """Stop it (SIGSTOP) for a while; its clock goes on."""
        self.paused_until_s = max(self.paused_until_s, trio.current_time() + seconds)
        self.timeline.at(self.paused_until_s, self._go_on)

    def _go_on(self) -> None:
        if trio.current_time() >= self.paused_until_s:
            waiting, self.waiting = self.waiting, []
            for event in waiting:
                event()

    def resume(self) -> None:
        """SIGCONT."""
        self.paused_until_s = 0.0
        self._go_on()

    def kill(self) -> None:
        """End it at once; nothing of it happens any more."""
        self.dead = True

    def bury(self) -> None:
        """At the end of the simulation: let go of the tasks of a dead or forgotten process."""
        self.dead = True
        for task in list(self.tasks):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with self.entered(), suppress(Exception, Killed):
                task.get_coro().close()

    def complain(self, context: dict[str, Any]) -> None:
        """An exception that nobody took."""
        if not self.dead:
            error = context.get("exception")
            self._complaints.append(f"{self.name}: {context.get('message')}: {error!r}")


def current_process() -> Process:
    """The process whose code is running."""
    loop: Any = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return loop.process
