"""A disk that can lose power: what a program did to a directory, and every state a cut may leave of it.

The fault model, for a cut between any two calls, also in the middle of a sync:

* A write since the last sync of its file is stored or not, sector by sector (512 bytes), in any order. A
  sector is never torn, and one that was never stored reads as zeros.
* The size of a file, and what shortens it, follow the order in which they were made, up to any point.
* Entries of a directory that was not synced since are there or not: up to any point of its history (one
  directory may be ahead of another), or up to one point of all history, as with a journal. A rename is one
  step. A sync of a file says nothing of its name.
* fsync and fdatasync of a file keep its content and size; fsync of a directory keeps its entries.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

SECTOR_BYTES: Final = 512


class Write(NamedTuple):
    """Bytes of a file."""

    file: int
    offset: int
    data: bytes


class Resize(NamedTuple):
    """A file was cut, or lengthened with zeros."""

    file: int
    size: int


class Flip(NamedTuple):
    """A bit of what is stored changed by itself."""

    file: int
    offset: int


class SyncFile(NamedTuple):
    """Content and size of a file were made durable."""

    file: int


class Name(NamedTuple):
    """One change of names: `file` (0: a directory) is at `path` now, or what was there is gone (None).

    `old` is where a renamed file was.
    """

    path: str
    file: int | None
    old: str = ""


class SyncDirectory(NamedTuple):
    """The entries of a directory were made durable."""

    path: str


Event = Write | Resize | Flip | SyncFile | Name | SyncDirectory


@dataclass(slots=True)
class _Content:
    """One file: what is durable, and what came since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Resize] = field(default_factory=list[Write | Resize])

    def sync(self) -> None:
        self.durable = self._apply(self.durable, self.pending)
        self.pending = []

    @staticmethod
    def _apply(start: bytearray, changes: list[Write | Resize]) -> bytearray:
        content = bytearray(start)
        for change in changes:
            if isinstance(change, Resize):
                _resize(content, change.size)
            else:
                _write(content, change.offset, change.data)
        return content

    def cut(self, rng: Random, kept: float) -> bytes:
        """What a cut leaves when each unsynced sector is stored with probability `kept`."""
        sizes_until = round(kept * len(self.pending)) if kept in (0, 1) else rng.randint(0, len(self.pending))
        content, size = bytearray(self.durable), len(self.durable)
        for position, change in enumerate(self.pending):
            if isinstance(change, Resize):
                if position >= sizes_until:
                    break  # what was written behind it lies in blocks that nobody knows
                _resize(content, change.size)
                size = change.size
            else:
                for start, data in _sectors(change):
                    if rng.random() < kept:
                        _write(content, start, data)
                if position < sizes_until:
                    size = max(size, change.offset + len(change.data))
        _resize(content, size)
        return bytes(content)


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))
    del content[size:]


def _sectors(write: Write) -> Iterator[tuple[int, bytes]]:
    """The write in pieces, each within one sector."""
    at, end = write.offset, write.offset + len(write.data)
    while at < end:
        stop = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield at, write.data[at - write.offset : stop - write.offset]
        at = stop


class Disk:
    """One directory: how it was at first, and what was done since. Paths are relative to it."""

    def __init__(self, root: Path) -> None:
        """What is below `root` counts as durable."""
        self.root = Path(os.path.abspath(root))
        self.events: list[Event] = []
        self._first: dict[str, tuple[int, bytes]] = {}
        self._paths: dict[str, int] = {}
        self._last = 0
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            number = 0 if path.is_dir() else self._next()
            self._paths[name] = number
            self._first[name] = (number, b"" if path.is_dir() else path.read_bytes())

    def _next(self) -> int:
        self._last += 1
        return self._last

    def relative(self, path: str | bytes | os.PathLike[str]) -> str | None:
        """The path as events name it, or None outside."""
        full = os.path.abspath(os.fsdecode(path))
        if full != str(self.root) and not full.startswith(f"{self.root}/"):
            return None
        return os.path.relpath(full, self.root)

    def file(self, name: str) -> int:
        """The number of the file at `name`, which is made if there is none."""
        number = self._paths.get(name)
        if number is None:
            number = self._paths[name] = self._next()
            self.events.append(Name(name, number))
        return number

    def make_directory(self, name: str) -> None:
        """mkdir(2) was called."""
        self._paths[name] = 0
        self.events.append(Name(name, 0))

    def remove(self, name: str) -> None:
        """unlink(2) or rmdir(2) was called."""
        del self._paths[name]
        self.events.append(Name(name, None))

    def rename(self, old: str, new: str) -> None:
        """rename(2) was called."""
        self._paths[new] = number = self._paths.pop(old)
        self.events.append(Name(new, number, old))

    def flip(self, name: str, offset: int) -> None:
        """Flip a bit of a synced byte, in the real file too."""
        with (self.root / name).open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 4]))
        self.events.append(Flip(self._paths[name], offset))

    # ------------------------------------------------------------------ what a cut leaves

    def after_cut(self, point: int, rng: Random) -> dict[str, bytes | None]:
        """Files (None: directories) as a cut after `point` events may leave them."""
        return self._state(point, rng)

    def whole(self) -> dict[str, bytes | None]:
        """Files (None: directories) as they are without a cut."""
        return self._state(len(self.events), None)

    def synced(self) -> dict[str, bytes | None]:
        """Files (None: directories) when a cut now leaves only what it must."""
        return self._state(len(self.events), None, only_synced=True)

    def _state(self, point: int, rng: Random | None, *, only_synced: bool = False) -> dict[str, bytes | None]:
        contents = {number: _Content(bytearray(data)) for number, data in self._first.values()}
        names = {name: number for name, (number, _) in self._first.items()}
        pending: list[Name] = []
        for event in self.events[:point]:
            if isinstance(event, Name):
                pending.append(event)
            elif isinstance(event, SyncDirectory):
                pending = _settle(names, pending, event.path)
            elif isinstance(event, SyncFile):
                contents.setdefault(event.file, _Content()).sync()
            elif isinstance(event, Flip):
                durable = contents[event.file].durable
                assert event.offset < len(durable), "what was acknowledged was not made durable"
                durable[event.offset] ^= 4
            else:
                contents.setdefault(event.file, _Content()).pending.append(event)
        if not only_synced:
            for change in pending if rng is None else _chosen(pending, rng):
                _rename(names, change)
        kept = 0.0 if only_synced else 1.0 if rng is None else rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        state: dict[str, bytes | None] = {}
        for name in sorted(names):
            parent = os.path.dirname(name)
            if parent and parent not in state:
                continue  # the directory itself did not last
            number = names[name]
            content = contents.setdefault(number, _Content())
            state[name] = None if not number else content.cut(rng or Random(0), kept)
        return state


def _settle(names: dict[str, int], pending: list[Name], directory: str) -> list[Name]:
    """Make durable what concerns `directory`, and what came before under the same names; returns the rest."""
    settled: set[int] = set()
    paths: set[str] = set()
    for position in range(len(pending) - 1, -1, -1):
        change = pending[position]
        if directory in _directories(change) or paths & {change.path, change.old}:
            settled.add(position)
            paths |= {path for path in (change.path, change.old) if path}
    for position in sorted(settled):
        _rename(names, pending[position])
    return [change for position, change in enumerate(pending) if position not in settled]


def _directories(change: Name) -> set[str]:
    return {os.path.dirname(path) or "." for path in (change.path, change.old) if path}


def _chosen(pending: list[Name], rng: Random) -> list[Name]:
    """Those changes of names that happened to be stored."""
    mode = rng.choice(("none", "all", "one history", "each directory"))
    if mode == "none":
        return []
    if mode == "all":
        return pending
    if mode == "one history":
        return pending[: rng.randint(0, len(pending))]
    directories = sorted({os.path.dirname(change.path) for change in pending})
    ends = {directory: rng.randint(0, len(pending)) for directory in directories}
    return [
        change for position, change in enumerate(pending) if position < ends[os.path.dirname(change.path)]
    ]


def _rename(names: dict[str, int], change: Name) -> None:
    if change.old:
        names.pop(change.old, None)
    if change.file is None:
        names.pop(change.path, None)
    else:
        names[change.path] = change.file


def write_out(state: dict[str, bytes | None], root: Path) -> None:
    """Make the files of `state` below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in state.items():  # sorted: directories come before what is in them
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def read_in(root: Path) -> dict[str, bytes | None]:
    """The files (None: directories) below `root`."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }
