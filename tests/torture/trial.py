"""Runs a program of operations against file systems and the model, and says where they part."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from tests.torture.checker import Agreement, Done, Undecided, explain
from tests.torture.model import Model
from tests.torture.operations import Op, Result, Stat
from tests.torture.tree import DIRECTORY, FILE, LINK
from tests.torture.workload import SLOTS, Workload

CALL_PATIENCE_S = 400.0
LOOK_SLOT = SLOTS  # for looking at files, beside those of the workload
WHOLE = 1 << 20

Program = list[list[Op]]  # rounds; the calls of a round run at once, those of one actor in order


class World(Protocol):
    """File systems that actors work on."""

    async def run(self, op: Op) -> Result:
        """Carry out one call."""
        ...

    def complaint(self) -> str:
        """What went wrong unseen since the last time, or nothing."""
        ...


class Mismatch(AssertionError):
    """The file systems did what the model does not allow."""


class Trial:
    """One run."""

    def __init__(self, world: World, mounts: int, *, times: bool = True, inos_return: bool = False) -> None:
        """`times`: compare times; `inos_return`: the file systems use inode numbers again."""
        self.world = world
        self.model = Model(mounts)
        self.agreement = Agreement()
        self.program: Program = []
        self.calls = 0
        self.undecided = 0
        self._times = times
        self._inos_return = inos_return
        self._clock = 0

    # ------------------------------------------------------------------ rounds

    async def round(self, ops: Sequence[Op]) -> None:
        """Carry out a round and check it; raises Mismatch."""
        self.program.append(list(ops))
        actors = {op.actor for op in ops}
        if len(actors) == 1:
            for op in ops:
                await self._alone(op)
        else:
            await self._together(ops, sorted(actors))
        self._collect()

    def _collect(self) -> None:
        for number in self.model.collect():
            if self._inos_return:
                self.agreement.forget(number)

    async def _call(self, op: Op) -> Done:
        self._clock += 1
        start = self._clock
        with trio.move_on_after(CALL_PATIENCE_S) as scope:
            result = await self.world.run(op)
        if scope.cancelled_caught:
            raise Mismatch(f"{op} did not return within {CALL_PATIENCE_S:.0f} s")
        self._clock += 1
        self.calls += 1
        complaint = self.world.complaint()
        if complaint:
            raise Mismatch(f"{op}: {complaint}")
        return Done(op, result, start, self._clock)

    async def _alone(self, op: Op) -> Result:
        done = await self._call(op)
        expected = self.model.run(op)
        objection = self.agreement.objection(expected, done.result, times=self._times)
        if objection:
            raise Mismatch(f"{op}: {objection}")
        return done.result

    async def _together(self, ops: Sequence[Op], actors: Sequence[int]) -> None:
        calls: list[Done] = []
        failures: list[Mismatch] = []

        async def work(actor: int) -> None:
            try:
                for op in ops:
                    if op.actor == actor:
                        calls.append(await self._call(op))
            except Mismatch as mismatch:
                failures.append(mismatch)

        async with trio.open_nursery() as nursery:
            for actor in actors:
                nursery.start_soon(work, actor)
        if failures:
            raise failures[0]
        looks: list[Done] = []

        async def note(op: Op) -> Result:
            looks.append(await self._call(op))
            return looks[-1].result

        for actor in actors:
            await look_around(note, actor, self._slots(ops))
        self._explain(calls, looks)

    def _slots(self, ops: Sequence[Op]) -> list[tuple[int, int]]:
        """Open files that there may be after these calls."""
        opened = {(op.actor, op.args[0]) for op in ops if op.call == "open"}
        return sorted(opened | set(self.model.files))

    def _explain(self, calls: Sequence[Done], looks: Sequence[Done]) -> None:
        try:
            found = explain(self.model, calls, looks)
        except Undecided:
            raise Mismatch(_story("no order was found in time for", calls, looks)) from None
        if found is None:
            raise Mismatch(_story("no order explains", calls, looks))
        self.model = found
        self._collect()
        seen: dict[int, tuple[int, int]] = {}
        for look in looks:
            objection = self.agreement.objection(self.model.run(look.op), look.result, times=False)
            value = look.result.value
            if isinstance(value, Stat) and not objection:
                times = (value.mtime, value.ctime)
                if seen.setdefault(value.ino, times) != times:
                    objection = f"times {times}, another mount had {seen[value.ino]}"
            if objection:
                raise Mismatch(_story(f"{look.op}: {objection} after", calls, looks))

    async def look(self, actor: int) -> None:
        """See from one mount whether everything is as it should be."""

        async def do(op: Op) -> Result:
            self.program.append([op])
            return await self._alone(op)

        await look_around(do, actor, sorted(self.model.files))


def _story(text: str, calls: Sequence[Done], looks: Sequence[Done]) -> str:
    lines = [str(call) for call in sorted(calls, key=lambda call: call.start)]
    seen = [str(look) for look in looks if look.op.actor == looks[0].op.actor]
    return "\n".join([f"{text} this round:", *lines, "then seen:", *seen])


async def look_around(
    do: Callable[[Op], Awaitable[Result]], actor: int, slots: Sequence[tuple[int, int]]
) -> None:
    """Ask for everything that there is to see."""

    async def ask(call: str, *args: object) -> Result:
        return await do(Op(0, actor, call, args))

    async def file(path: str) -> None:
        await ask("listxattr", path)
        if not (await ask("open", LOOK_SLOT, path, 0, 0)).error:
            await ask("pread", LOOK_SLOT, 0, WHOLE)
            await ask("close", LOOK_SLOT)

    directories = [""]
    while directories:
        directory = directories.pop()
        for name in (await ask("readdir", directory or "/")).value or ():
            path = f"{directory}/{name}"
            found = (await ask("lstat", path)).value
            kind = found.kind if isinstance(found, Stat) else ""
            if kind == DIRECTORY:
                directories.append(path)
            elif kind == LINK:
                await ask("readlink", path)
            elif kind == FILE:
                await file(path)
    for owner, slot in slots:
        if owner == actor:
            await ask("fstat", slot)
            await ask("pread", slot, 0, WHOLE)


# ---------------------------------------------------------------------- whole runs


async def run_program(trial: Trial, program: Program) -> None:
    """Carry out what was recorded."""
    for ops in program:
        await trial.round(ops)


async def run_sequential(trial: Trial, workload: Workload, calls: int, look_every: int = 200) -> None:
    """One call at a time; now and then everything is looked at."""
    last = 0
    while trial.calls < calls:
        await trial.round([workload.next(trial.model)])
        if len(trial.program) - last >= look_every:
            for actor in range(workload.mounts):
                await trial.look(actor)
            last = len(trial.program)


async def run_concurrent(trial: Trial, workload: Workload, calls: int, per_actor: int = 3) -> None:
    """Rounds in which two or more actors work at once."""
    rng = workload.rng
    while trial.calls < calls:
        actors = rng.sample(range(workload.actors), rng.randint(2, max(2, min(4, workload.actors))))
        ops = [
            workload.next(trial.model, actor) for actor in actors for _ in range(rng.randint(1, per_actor))
        ]
        await trial.round(ops)


# ---------------------------------------------------------------------- recording


def write_program(program: Program) -> str:
    """One round per line."""
    return "".join(f"[{', '.join(str(op) for op in ops)}]\n" for ops in program)


def read_program(text: str) -> Program:
    """What `write_program` wrote; lines that begin with # are comments."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [
        [Op(number, actor, call, tuple(args)) for number, actor, call, args in json.loads(line)]
        for line in lines
    ]
