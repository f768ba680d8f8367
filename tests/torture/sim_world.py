"""Torture runs over the rig: everything in one loop with a clock that jumps, the same for the same seed."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
import trio
import trio.testing

from tests.doubles.rig import Rig
from tests.torture.operations import Op, Result
from tests.torture.simulated import SimProcess
from tests.torture.trial import Mismatch, Trial

MESSAGES_MAX = 2_000  # from all mounts, from one call to the next
THOUGHT, THOUGHTS_S = 0.3, (0.001, 0.01, 0.05)  # how often, and how long, a process does something else


class SimWorld:
    """Simulated mounts of one rig."""

    def __init__(self, rig: Rig, nursery: trio.Nursery, rng: random.Random) -> None:
        self.rig = rig
        self._rng = rng
        self.processes: list[SimProcess] = []
        self.errors: list[str] = []
        self._nursery = nursery

    async def run(self, op: Op) -> Result:
        """Carry out one call, or let something happen."""
        process = self.processes[op.actor % len(self.processes)]
        self.rig.messages_left = MESSAGES_MAX
        if self._rng.random() < THOUGHT:
            await trio.sleep(self._rng.choice(THOUGHTS_S))
        match op.call:
            case "wait":
                await trio.sleep(*op.args)
            case "cut":
                process.kernel.connection.cut()
            case "partition":
                self._nursery.start_soon(process.kernel.connection.partition, *op.args)
            case "restart":
                self.rig.restart()
            case _:
                return await process.run(op)
        return Result()

    def complaint(self) -> str:
        """What was logged as a bug."""
        errors, self.errors = self.errors, []
        return "; ".join(errors)

    def note(self, _logger: object, method: str, event: Any) -> Any:
        """A structlog processor that keeps errors and drops everything."""
        if method in ("error", "exception", "critical"):
            self.errors.append(f"{event}")
        raise structlog.DropEvent


@asynccontextmanager
async def sim_world(mounts: int, seed: int, slow: bool) -> AsyncIterator[SimWorld]:
    """A rig with mounts; at the end everything is sent and sound.

    `slow`: messages take random times.
    """
    rng = random.Random(seed)
    delay = (lambda: rng.choice((0.0, 0.001, 0.003, 0.01))) if slow else None
    async with trio.open_nursery() as nursery:
        world = SimWorld(Rig(nursery, delay), nursery, rng)
        before = structlog.get_config()["processors"]
        structlog.configure(processors=[world.note])
        try:
            async with AsyncExitStack() as stack:
                for number in range(mounts):
                    kernel = await stack.enter_async_context(world.rig.mount())
                    world.processes.append(SimProcess(kernel, number))
                yield world
            faults = [*world.rig.faults(), *world.errors]
            if faults:
                raise Mismatch(f"after the end: {faults}")
        finally:
            structlog.configure(processors=before)
        nursery.cancel_scope.cancel()


def simulate(
    work: Callable[[Trial], Awaitable[None]], *, mounts: int, seed: int, slow: bool
) -> tuple[Trial, Mismatch | None]:
    """Run `work` on a fresh simulation: the trial, and what went wrong. Same arguments, same run."""
    trial: Trial | None = None

    async def main() -> None:
        nonlocal trial
        async with sim_world(mounts, seed, slow) as world:
            trial = Trial(world, mounts)
            await work(trial)

    random.seed(seed)
    _make_trio_deterministic(seed)
    mismatch: Mismatch | None = None
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:  # noqa: BLE001 - whatever ends a run is what it found
        mismatch = _found(error)
    if trial is None:
        raise AssertionError("the simulation did not start") from mismatch
    return trial, mismatch


def _found(error: BaseException) -> Mismatch:
    """The mismatch in what came out of nested nurseries; another exception is one, too."""
    while isinstance(error, BaseExceptionGroup):
        others = [e for e in error.exceptions if not isinstance(e, trio.Cancelled)]
        error = others[0]
    if isinstance(error, Mismatch):
        return error
    if isinstance(error, KeyboardInterrupt):
        raise error
    found = Mismatch(f"{type(error).__name__}: {error}")
    found.__cause__ = error
    return found


def _make_trio_deterministic(seed: int) -> None:
    """As hypothesis does it: the order of ready tasks comes from the seed."""
    from trio._core import _run

    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
