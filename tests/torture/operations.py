"""System calls as plain values: what a torture run does, records, replays and shrinks."""

import json
from dataclasses import dataclass, field
from typing import Any

MODE_MASK = 0o7777


@dataclass(frozen=True, slots=True)
class Op:
    """One system call of one actor. `number` is unique in a run and names the inode that the call makes.

    An actor is a process on one mount (number `actor % mounts`) with open files of its own, named by slots.
    """

    number: int
    actor: int
    call: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return json.dumps([self.number, self.actor, self.call, list(self.args)])


@dataclass(frozen=True, slots=True)
class Result:
    """What a call returned: a value, or the name of an errno."""

    value: Any = None
    error: str = ""

    def __str__(self) -> str:
        return self.error or repr(self.value)


@dataclass(frozen=True, slots=True)
class Stat:
    """What stat(2) tells, without device, blocks and atime; `size` is -1 for directories.

    In the model's answers `ino` is the number of the operation that made the inode, and the times are tags:
    a time in nanoseconds that was set, or the negated number of the operation that changed it.
    """

    kind: str  # f, d or l
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    ino: int = field(compare=False)
    mtime: int = field(compare=False)
    ctime: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """The model's answer to readdir while others change the directory: what it must name, and what it may."""

    must: frozenset[str]
    may: frozenset[str]


def pattern(number: int, length: int) -> bytes:
    """The bytes that operation `number` writes: every piece says who wrote it, and none is zero."""
    word = b"%d." % number
    return (word * (length // len(word) + 1))[:length]
