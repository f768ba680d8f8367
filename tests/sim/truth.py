"""What simulated clients know of a file, and the history of every register that they read and change."""

from typing import Any

from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

NONE = pb.LEASE_KIND_NONE
Register = tuple[str, int | bytes]


class Truth:
    """The history of every register, in the order of the commits."""

    def __init__(self) -> None:
        self.history: dict[Register, list[Any]] = {}
        self.returned: dict[Register, int] = {}  # index of the newest value whose change has returned
        self.unsent: dict[Register, dict[str, int]] = {}  # writes that returned from memory, by client

    def observe(self, register: Register, value: Any) -> None:
        """A commit left this value."""
        history = self.history.setdefault(register, [])
        if not history or history[-1] != value:
            history.append(value)

    def index(self, register: Register, value: Any) -> int:
        """Where in the history a value stands; the newest place."""
        history = self.history[register]
        assert value in history, f"{register}: {value} was never committed"
        return len(history) - 1 - history[::-1].index(value)

    def changed(self, register: Register, value: Any) -> None:
        """A change returned to its caller."""
        self.returned[register] = max(self.returned.get(register, 0), self.index(register, value))

    def floor(self, register: Register, reader: str) -> tuple[int, list[int]]:
        """What a read that begins now must at least see: an index, and unsent writes of others."""
        others = [value for name, value in self.unsent.get(register, {}).items() if name != reader]
        return self.returned.get(register, 0), others

    def check(self, register: Register, floor: tuple[int, list[int]], value: Any) -> None:
        """A read returned `value`."""
        seen = self.index(register, value)
        assert seen >= floor[0], f"stale {register}: {value} is {seen}, must be {floor[0]} or newer"
        for unsent in floor[1]:
            later = [at for at, known in enumerate(self.history[register]) if known >= unsent]
            assert later, f"{register}: {unsent} was not flushed"
            assert seen >= later[0], f"stale {register}: {value}, although {unsent} had been written"


class File:
    """What a client knows of one inode."""

    def __init__(self) -> None:
        self.lease: int = NONE
        self.attr: common.Attr | None = None
        self.attr_valid = False
        self.pages: int | None = None
        self.dirty: int | None = None
        self.open = False
        self.shared = False
        self.registered = False
        self.busy = False  # a request of this file's writer is under way
        self.locks_pages = False  # it is a write(2) through the page cache: invalidation waits for it

    def learn(self, attr: common.Attr, lease: int) -> None:
        """Take attributes from a reply."""
        if self.attr is None or attr.change >= self.attr.change:
            self.attr = attr
        if lease != NONE:
            self.lease = max(self.lease, lease)
            self.attr_valid = True

    def drop(self, keep: int) -> None:
        """The lease shrinks."""
        self.lease = min(self.lease, keep)
        if self.lease == NONE:
            self.attr_valid = False
            self.pages = None
