"""Makes a failing program small: whole rounds go first, in ever smaller pieces, then single calls."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.torture.operations import Op
from tests.torture.trial import Program

T = TypeVar("T")


def shrink(program: Program, fails: Callable[[Program], bool], patience_s: float) -> Program:
    """A smaller program that still fails, as small as can be found within `patience_s`."""
    deadline = time.monotonic() + patience_s
    program = _without_pieces(program, fails, deadline)
    calls = [(number, op) for number, ops in enumerate(program) for op in ops]
    calls = _without_pieces(calls, lambda some: fails(_rounds(some)), deadline)
    return _rounds(calls)


def _rounds(calls: Sequence[tuple[int, Op]]) -> Program:
    rounds: dict[int, list[Op]] = {}
    for number, op in calls:
        rounds.setdefault(number, []).append(op)
    return list(rounds.values())


def _without_pieces(whole: list[T], fails: Callable[[list[T]], bool], deadline: float) -> list[T]:
    """Leave out pieces of half the length, a quarter and so on, from the end, while it still fails."""
    size = max(1, len(whole) // 2)
    while True:
        removed = False
        end = len(whole)
        while end > 0 and time.monotonic() < deadline:
            smaller = whole[: max(0, end - size)] + whole[end:]
            if smaller and fails(smaller):
                whole, removed = smaller, True
            end -= size
        if time.monotonic() >= deadline or (size == 1 and not removed):
            return whole
        size = max(1, size // 2)
