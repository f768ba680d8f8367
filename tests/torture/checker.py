"""Says whether results can be what the model allows: alone, or for concurrent calls in some order.

A concurrent round is right if its calls, taken apart into the model's steps, can be put in one order that
keeps "returned before the other began", gives every call its result, and ends in the state that a look at
everything afterwards showed. The search begins with the order in which calls ended, so it rarely goes far.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.torture.model import Model, Steps
from tests.torture.operations import Listing, Op, Result, Stat
from tests.torture.tree import Node, Refusal

SEARCH_MAX = 50_000  # orders of steps looked at before a round is given up as undecided


@dataclass(frozen=True, slots=True)
class Done:
    """A call with its result and when it ran, in any unit that grows."""

    op: Op
    result: Result
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.start:>8}-{self.end:<8} {self.op} -> {self.result}"


def agrees(expected: Result, actual: Result) -> bool:
    """Whether results are equal, apart from inode numbers and times."""
    if expected.error or actual.error:
        return expected.error == actual.error
    if isinstance(expected.value, Listing):
        names = frozenset(actual.value)
        alone = len(names) == len(actual.value)
        return alone and expected.value.must <= names <= expected.value.may
    return bool(expected.value == actual.value)


@dataclass(slots=True)
class Agreement:
    """Which real inode numbers and times stand for the model's."""

    inos: dict[int, int] = field(default_factory=dict[int, int])
    numbers: dict[int, int] = field(default_factory=dict[int, int])
    times: dict[tuple[int, str, int], int] = field(default_factory=dict[tuple[int, str, int], int])

    def objection(self, expected: Result, actual: Result, *, times: bool = True) -> str:
        """What is wrong with a result, or nothing."""
        if not agrees(expected, actual):
            return f"expected {expected}, got {actual}"
        if isinstance(expected.value, Stat) and isinstance(actual.value, Stat):
            return self._identity(expected.value, actual.value, times)
        return ""

    def _identity(self, expected: Stat, actual: Stat, times: bool) -> str:
        ino = self.inos.setdefault(expected.ino, actual.ino)
        number = self.numbers.setdefault(actual.ino, expected.ino)
        if ino != actual.ino or number != expected.ino:
            return f"expected inode {ino} (made by {expected.ino}), got {actual.ino} (made by {number})"
        if not times:
            return ""
        for name in ("mtime", "ctime"):
            tag, value = getattr(expected, name), getattr(actual, name)
            known = tag if tag > 0 else self.times.setdefault((expected.ino, name, tag), value)
            if known != value:
                return f"expected {name} {known} (of {tag}) of the inode made by {expected.ino}, got {value}"
        return ""

    def forget(self, number: int) -> None:
        """An inode is gone, and its real number may stand for another one from now on."""
        self.numbers.pop(self.inos.pop(number, -1), None)


class Undecided(Exception):
    """The search for an order was given up."""


def explain(model: Model, calls: Sequence[Done], looks: Sequence[Done]) -> Model | None:
    """The state after some order of the calls that explains all results, or None; raises Undecided."""
    waiting: list[list[int]] = [[]]
    seen: set[Any] = set()
    for _ in range(SEARCH_MAX):
        if not waiting:
            return None
        order = _Order(model, calls, waiting.pop())
        found = order.run(waiting, seen)
        if found and all(agrees(order.model.run(look.op), look.result) for look in looks):
            return order.model
    raise Undecided


class _Order:
    """One way in which the steps of several calls may follow each other."""

    def __init__(self, model: Model, calls: Sequence[Done], schedule: list[int]) -> None:
        self.model = model.copy()
        self.calls = calls
        self.schedule = list(schedule)
        self.steps: list[Steps | None] = [self.model.start(call.op) for call in calls]
        self.left = set(range(len(calls)))
        self.last = -1
        self._right = all(self._advance(index) for index in schedule)

    def _advance(self, index: int) -> bool:
        """Take one step of one call; False when it ends with another result than it had."""
        steps, call = self.steps[index], self.calls[index]
        assert steps is not None
        self.model.number = call.op.number
        self.last = index
        try:
            next(steps)
        except StopIteration as end:
            result = Result(end.value)
        except Refusal as refusal:
            result = Result(error=refusal.error)
        else:
            return True
        self.left.discard(index)
        self.steps[index] = None
        return agrees(result, call.result)

    def _ready(self) -> list[int]:
        """The calls that may take the next step, the likeliest last."""
        horizon = min(self.calls[index].end for index in self.left)
        ready = [index for index in self.left if self.calls[index].start <= horizon]
        return sorted(ready, key=lambda index: (index == self.last, -self.calls[index].end))

    def run(self, waiting: list[list[int]], seen: set[Any]) -> bool:
        """Go on to the end, leaving alternatives in `waiting`; whether all results were explained."""
        while self._right and self.left:
            ready = self._ready()
            if len(ready) > 1:
                key = self._key()
                if key in seen:
                    return False
                seen.add(key)
                waiting.extend([*self.schedule, index] for index in ready[:-1])
            self.schedule.append(ready[-1])
            self._right = self._advance(ready[-1])
        return self._right

    def _key(self) -> Any:
        return (self.model.fingerprint(), tuple(_position(steps) for steps in self.steps))


def _position(steps: Steps | None) -> Any:
    """Where a generator is and what it knows."""
    place: list[Any] = []
    inner: Any = steps
    while inner is not None and inner.gi_frame is not None:
        known = inner.gi_frame.f_locals.items()
        values = [(name, _plain(value)) for name, value in known if name not in ("self", "op")]
        place.append((inner.gi_frame.f_lineno, values))
        inner = inner.gi_yieldfrom
    return repr(place)


def _plain(value: Any) -> Any:
    return value.number if isinstance(value, Node) else value
