"""Random operations from a seed: phases of work by one actor in one directory, looked at by the others.

Write leases are endangered by changes of hands, so an actor mostly works alone for a while, then another
looks at what it did. Half of the calls aim at what exists (the model is asked), the rest at anything.
"""

import os
import random
from dataclasses import dataclass, field
from typing import Any

from tests.torture.model import EXCHANGE, KEEP_SIZE, NOREPLACE, PUNCH_HOLE, ZERO_RANGE, Model
from tests.torture.operations import Op
from tests.torture.tree import ROOT

SLOTS = 4
PAGE = 4096

LOOK = {
    "lstat": 6,
    "stat": 2,
    "readdir": 3,
    "read_open": 3,
    "pread": 4,
    "fstat": 3,
    "readlink": 1,
    "getxattr": 1,
    "listxattr": 1,
    "freaddir": 1,
    "close": 3,
}
BUILD = {
    "create": 8,
    "pwrite": 6,
    "close": 7,
    "mkdir": 3,
    "symlink": 1,
    "link": 2,
    "rename": 3,
    "chmod": 1,
    "chown": 1,
    "utimens": 1,
    "setxattr": 1,
    "fsync": 1,
}
TEAR = {"unlink": 6, "rmdir": 4, "rename": 4, "truncate": 1, "close": 1, "removexattr": 1}
DATA = {
    "pwrite": 6,
    "pread": 4,
    "truncate": 1,
    "ftruncate": 2,
    "fallocate": 2,
    "fsync": 2,
    "write_open": 3,
    "close": 1,
    "fstat": 2,
    "flock": 1,
    "lockf": 1,
}
MIXED = {name: 2 for table in (LOOK, BUILD, TEAR, DATA) for name in table}
LONG, SHORT = 1.0, 0.1  # parts of the longest phase
STYLES = (
    (LOOK, SHORT),
    (LOOK, SHORT),
    (BUILD, LONG),
    (BUILD, LONG),
    (TEAR, LONG),
    (DATA, SHORT),
    (MIXED, LONG),
)
WAITS_S = (0.1, 0.3, 0.7, 2.0, 6.0, 35.0)


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the work is done, and what happens besides, each with its probability per operation."""

    directories: tuple[str, ...] = ("", "/p", "/q", "/p/r")
    names: tuple[str, ...] = ("a", "b", "c", "d", "e", "f")
    phase_max: int = 120
    file_max_bytes: int = 9000
    besides: dict[str, float] = field(default_factory=dict[str, float])


class Workload:
    """Draws one operation after another."""

    def __init__(self, seed: int, actors: int, mounts: int, shape: Shape) -> None:
        self.rng = random.Random(seed)
        self.actors = actors
        self.mounts = mounts
        self.shape = shape
        self.number = 0
        self._left = 0
        self._actor = 0
        self._focus = ""
        self._style = MIXED

    def next(self, model: Model, actor: int | None = None) -> Op:
        """The next operation, by `actor` if that is given."""
        rng = self.rng
        self.number += 1
        for name, probability in self.shape.besides.items():
            if rng.random() < probability:
                return self._happening(name)
        if not self._left:
            self._style, part = rng.choice(STYLES)
            self._left = rng.randint(
                1, max(1, int(rng.choice([0.1, 0.3, 1.0]) * part * self.shape.phase_max))
            )
            self._actor = rng.randrange(self.actors)
            if rng.random() < 0.4:
                self._focus = rng.choice(self.shape.directories)
        self._left -= 1
        if actor is None:
            actor = self._actor if rng.random() < 0.98 else rng.randrange(self.actors)
        call = rng.choices(list(self._style), list(self._style.values()))[0]
        call, args = getattr(self, f"_{call}", self._plain)(model, actor, call)
        return Op(self.number, actor, call, args)

    def _happening(self, name: str) -> Op:
        args: tuple[Any, ...] = ()
        if name == "wait":
            args = (self.rng.choice(WAITS_S),)
        elif name == "partition":
            args = (self.rng.choice(WAITS_S[:-1]),)
        return Op(self.number, self.rng.randrange(self.actors), name, args)

    # ------------------------------------------------------------------ choosing

    def _directory(self) -> str:
        return self._focus if self.rng.random() < 0.8 else self.rng.choice(self.shape.directories)

    def _path(self, model: Model, kinds: str = "fdl", known: float = 0.5) -> str:
        """A path: of something of these kinds in the directory, or any."""
        directory = self._directory()
        if self.rng.random() < known:
            names = _names(model, directory, kinds)
            if names:
                return f"{directory}/{self.rng.choice(names)}"
        if kinds == "d":
            return self.rng.choice(self.shape.directories[1:])
        return f"{directory}/{self.rng.choice(self.shape.names)}"

    def _slot(self, model: Model, actor: int, used: bool) -> int:
        slots = [slot for slot in range(SLOTS) if ((actor, slot) in model.files) == used]
        return self.rng.choice(slots) if slots else self.rng.randrange(SLOTS)

    def _size(self) -> int:
        return self.rng.choice([1, 10, 300, PAGE, 5000, self.rng.randrange(1, self.shape.file_max_bytes)])

    def _offset(self) -> int:
        return self.rng.choice([0, 0, 5, PAGE, self.rng.randrange(self.shape.file_max_bytes)])

    # ------------------------------------------------------------------ calls

    def _plain(self, model: Model, _actor: int, call: str) -> tuple[str, tuple[Any, ...]]:
        """A call on one path."""
        rng = self.rng
        path = self._path(model, known=0.8)
        match call:
            case "chmod":
                return call, (path, rng.choice([0o600, 0o644, 0o755, 0o711, 0o000]))
            case "chown":
                return call, (path, rng.choice([0, 1000, 1001]), rng.choice([0, 1000]))
            case "utimens":
                return call, (path, rng.randrange(1, 2 * 10**9) * 10**9 + rng.randrange(10**9))
            case "truncate":
                return call, (path, rng.choice([0, self._size()]))
            case "setxattr":
                value = str(self.number)
                return call, (path, rng.choice(["user.x", "user.y"]), value, rng.choice([0, 0, 0, 1, 2]))
            case "getxattr" | "removexattr":
                return call, (path, rng.choice(["user.x", "user.y"]))
            case _:
                return call, (path,)

    def _readdir(self, model: Model, _actor: int, call: str) -> tuple[str, tuple[Any, ...]]:
        return call, (self._directory() if self.rng.random() < 0.9 else self._path(model),)

    def _mkdir(self, model: Model, _actor: int, call: str) -> tuple[str, tuple[Any, ...]]:
        path = self._path(model, "d", known=0.1) if self.rng.random() < 0.7 else self._path(model)
        return call, (path, self.rng.choice([0o755, 0o700]))

    def _rmdir(self, model: Model, _actor: int, call: str) -> tuple[str, tuple[Any, ...]]:
        return call, (self._path(model, "d", known=0.7),)

    def _symlink(self, model: Model, _actor: int, call: str) -> tuple[str, tuple[Any, ...]]:
        target = self.rng.choice([*self.shape.names, "r/a", "missing"])
        return call, (target, self._path(model, known=0.2))

    def _link(self, model: Model, _actor: int, call: str) -> tuple[str, tuple[Any, ...]]:
        return call, (self._path(model, "fl", known=0.9), self._path(model, known=0.1))

    def _rename(self, model: Model, _actor: int, call: str) -> tuple[str, tuple[Any, ...]]:
        flags = self.rng.choice([0, 0, 0, 0, NOREPLACE, EXCHANGE])
        kinds = self.rng.choice(["f", "f", "d", "fdl"])
        return call, (self._path(model, kinds, known=0.9), self._path(model, kinds, known=0.5), flags)

    def _opening(self, model: Model, actor: int, path: str, flags: int) -> tuple[str, tuple[Any, ...]]:
        slot = self._slot(model, actor, used=False)
        if (actor, slot) in model.files:
            return "close", (slot,)
        mode = self.rng.choice([0o644, 0o600, 0o755])
        return "open", (slot, path, flags, mode)

    def _create(self, model: Model, actor: int, _call: str) -> tuple[str, tuple[Any, ...]]:
        extra = self.rng.choice([0, 0, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW])
        access = self.rng.choice([os.O_RDWR, os.O_RDWR, os.O_WRONLY, os.O_RDONLY])
        path = self._path(model, known=0.2)
        return self._opening(model, actor, path, os.O_CREAT | access | extra)

    def _read_open(self, model: Model, actor: int, _call: str) -> tuple[str, tuple[Any, ...]]:
        return self._opening(model, actor, self._path(model, known=0.9), os.O_RDONLY)

    def _write_open(self, model: Model, actor: int, _call: str) -> tuple[str, tuple[Any, ...]]:
        extra = self.rng.choice([0, 0, os.O_TRUNC, os.O_APPEND, os.O_SYNC])
        path = self._path(model, "fl", known=0.95)
        return self._opening(model, actor, path, self.rng.choice([os.O_RDWR, os.O_WRONLY]) | extra)

    def _of_slot(self, model: Model, actor: int, call: str) -> tuple[str, tuple[Any, ...]]:
        rng = self.rng
        slot = self._slot(model, actor, used=True)
        match call:
            case "pwrite":
                return call, (slot, self._offset(), self._size())
            case "pread":
                return call, (slot, rng.choice([0, 0, self._offset()]), rng.choice([10, 100_000]))
            case "ftruncate":
                return call, (slot, rng.choice([0, self._size()]))
            case "fallocate":
                mode = rng.choice([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
                return call, (slot, mode, self._offset(), self._size())
            case "flock":
                return call, (slot, rng.choice("rwu"))
            case "lockf":
                return call, (slot, rng.choice("rwu"), rng.randrange(4), rng.randrange(1, 4))
            case _:
                return call, (slot,)

    _close = _pwrite = _pread = _ftruncate = _fallocate = _fstat = _fsync = _of_slot
    _freaddir = _flock = _lockf = _of_slot


def _names(model: Model, directory: str, kinds: str) -> list[str]:
    """The entries of these kinds in a directory, as far as the model has it."""
    here = ROOT
    for part in directory.split("/"):
        if part:
            found = model.nodes[here].entries.get(part)
            if found is None:
                return []
            here = found
    node = model.nodes[here]
    return sorted(name for name, child in node.entries.items() if model.nodes[child].kind in kinds)
