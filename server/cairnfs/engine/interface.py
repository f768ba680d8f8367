"""The transactional key-value interface that every metadata engine implements.

Keys and values are bytes; keys are ordered as bytes are. Operations are pure closures over a
transaction: they may be run more than once, do no I/O of their own and keep no state. Many of them
share one durable commit (group commit), each still atomic by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class EngineError(Exception):
    """The engine could not do its work (disk full, lost connection); nothing was committed."""


class EngineUnreachable(EngineError):
    """The server behind the engine does not answer, which may pass; nothing was committed."""


class EngineLocked(EngineError):
    """Another coordinator holds this engine."""


class EngineBroken(EngineError):
    """Storage failed while a commit was being made durable, so only reopening tells whether it is there.

    Until then every commit raises this. A process that gets it should end and start again.
    """


class EngineDeposed(EngineBroken):
    """Another coordinator leads: nothing of this one is committed any more, whatever it believes."""


class ReadTransaction(Protocol):
    """A consistent view of all keys."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def get_many(self, wanted: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """The value of each key, or None: cheaper than one after another."""
        ...

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end in key order (descending when `reverse`)."""
        ...


class Transaction(ReadTransaction, Protocol):
    """A view that also sees, and collects, its own changes."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`; ValueError beyond limits.VALUE_MAX_BYTES or TRANSACTION_MAX_*."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove `key`; an absent one is fine."""
        ...

    def nest(self) -> "NestedTransaction":
        """A transaction laid over this one, whose changes may join it or be forgotten.

        This one must not change before that is decided.
        """
        ...


class NestedTransaction(Transaction, Protocol):
    """A part of a transaction that is made as a whole or not at all."""

    def join(self, *, spare_keys: int, spare_bytes: int) -> bool:
        """Make all changes in the transaction below, once.

        False, and nothing is changed, if that would leave the one below room for fewer than `spare_keys`
        more keys or `spare_bytes` more bytes.
        """
        ...


@dataclass(frozen=True, slots=True)
class Operation:
    """One closure to run inside a group commit.

    `locks` are keys that the closure will write or whose value or absence it relies on; `prefetch` are keys
    that it will read. An engine may ignore both; or lock them, or fetch them all at once, which is cheaper.
    """

    body: Callable[[Transaction], Any]
    locks: tuple[bytes, ...] = ()
    prefetch: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one operation of a group commit came to: a value, or the exception that undid it."""

    value: Any = None
    error: Exception | None = field(default=None)


class Engine(Protocol):
    """An ordered, durable key-value store. `read` and `commit` may run in different threads.

    Only the leader commits. An engine that one process at a time can open is led by whoever opened it.
    """

    def acquire_leadership(self, owner: str, term_s: float) -> int:
        """Become the leader for `term_s` seconds; returns the epoch, greater than that of any other leader.

        Whoever leads under the same `owner` is deposed at once: it must be known to be dead. Raises
        EngineLocked while another owner leads, and EngineError.
        """
        ...

    def renew_leadership(self) -> None:
        """Lead for another term from now; from any thread. Raises EngineDeposed, and EngineError."""
        ...

    @property
    def leads_until_s(self) -> float:
        """When the term ends, as time.monotonic() tells it: nobody else leads before that."""
        ...

    def read(self, body: Callable[[ReadTransaction], T]) -> T:
        """Run `body` on a snapshot of the last commit; called from one thread only, never blocks long."""
        ...

    def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Run `operations` in order and make all their changes durable together.

        An operation that raises leaves no change and does not disturb the others. When this returns,
        everything is on stable storage. Raises EngineError when nothing was committed (EngineBroken when
        that is not known, EngineDeposed when another leads), also when a body raises it.
        """
        ...

    def snapshot(self) -> AbstractContextManager[ReadTransaction]:
        """The last commit, to be read for as long as it takes, in any one thread, beside everything else."""
        ...

    def close(self) -> None:
        """Release everything; idempotent."""
        ...
