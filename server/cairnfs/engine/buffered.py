"""Write overlays: how every engine runs the operations of one group commit before it stores anything.

An operation writes into an overlay of its own, laid over the overlay of its batch, laid over the engine's
snapshot. When its body returns, its changes join the batch; when it raises, they are dropped.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from sortedcontainers import SortedList

from cairnfs.base.limits import (
    SCAN_PAGE_KEYS,
    TRANSACTION_MAX_BYTES,
    TRANSACTION_MAX_KEYS,
    VALUE_MAX_BYTES,
)
from cairnfs.engine.interface import EngineError, Operation, Outcome, ReadTransaction

Pair = tuple[bytes, bytes]
Changes = Mapping[bytes, bytes | None]  # None: the key is deleted
FetchPage = Callable[[bytes, bytes, int, bool], Sequence[Pair]]


class Overlay:
    """Changes laid over a view that stays as it is: the view as if they had been made.

    A scan shows the changes made before it was called; it may be continued while more are made.
    """

    __slots__ = ("_below", "_changes", "_ordered", "_unordered")

    def __init__(self, below: ReadTransaction) -> None:
        self._below = below
        self._changes: dict[bytes, bytes | None] = {}
        # Most operations never scan, so keys are put in order at the first scan that needs them.
        self._ordered: SortedList[bytes] | None = None
        self._unordered: list[bytes] = []  # changed since then

    @property
    def changes(self) -> Changes:
        """Every changed key with its new value."""
        return self._changes

    def apply(self, changes: Changes) -> None:
        """Lay `changes` over what is there."""
        if self._ordered is None:
            self._changes.update(changes)
        else:
            for key, value in changes.items():
                self._change(key, value)

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        if key in self._changes:
            return self._changes[key]
        return self._below.get(key)

    def get_many(self, wanted: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """The value of each key, or None: cheaper than one after another."""
        return _look_up(wanted, self._changes, self._below)

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Pair]:
        """Pairs with start <= key < end in key order (descending when `reverse`)."""
        changed = [(key, self._changes[key]) for key in self._changed_keys(start, end, reverse)]
        if not changed:
            return self._below.scan(start, end, limit=limit, reverse=reverse)
        wanted = None
        if limit is not None:
            wanted = limit + sum(value is None for _, value in changed)
        below = self._below.scan(start, end, limit=wanted, reverse=reverse)
        return islice(_merge(changed, below, reverse=reverse), limit)

    def _change(self, key: bytes, value: bytes | None) -> None:
        if self._ordered is not None and key not in self._changes:
            self._unordered.append(key)
        self._changes[key] = value

    def _changed_keys(self, start: bytes, end: bytes, reverse: bool) -> Iterable[bytes]:
        if not self._changes or start >= end:
            return ()
        if self._ordered is None:
            self._ordered = SortedList(self._changes)
        elif self._unordered:
            self._ordered.update(self._unordered)
            self._unordered.clear()
        return self._ordered.irange(start, end, inclusive=(True, False), reverse=reverse)


class BufferedTransaction(Overlay):
    """The transaction of one operation: an overlay that keeps to the limits.

    A change beyond them raises ValueError and is not made.
    """

    __slots__ = ("_size_bytes",)

    def __init__(self, below: ReadTransaction) -> None:
        super().__init__(below)
        self._size_bytes = 0

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`; ValueError beyond limits.VALUE_MAX_BYTES or TRANSACTION_MAX_*."""
        if len(value) > VALUE_MAX_BYTES:
            raise ValueError(f"a value of {len(value)} bytes is larger than {VALUE_MAX_BYTES}")
        self._account(key, len(value))
        self._change(key, value)

    def delete(self, key: bytes) -> None:
        """Remove `key`; an absent one is fine."""
        self._account(key, 0)
        self._change(key, None)

    def nest(self) -> "NestedBuffer":
        """A transaction laid over this one; NestedBuffer.join makes its changes here."""
        return NestedBuffer(self)

    def absorb(self, changes: Changes, spare_keys: int, spare_bytes: int) -> bool:
        """Make `changes` if that leaves room for so much more; else make none of them and return False."""
        own = self._changes
        more_keys, more_bytes = len(changes), 0
        for key, value in changes.items():
            if key in own:
                more_keys -= 1
                more_bytes -= len(own[key] or b"")
            else:
                more_bytes += len(key)
            if value is not None:
                more_bytes += len(value)
        if (
            len(own) + more_keys + spare_keys > TRANSACTION_MAX_KEYS
            or self._size_bytes + more_bytes + spare_bytes > TRANSACTION_MAX_BYTES
        ):
            return False
        self._size_bytes += more_bytes
        self.apply(changes)
        return True

    def _account(self, key: bytes, value_bytes: int) -> None:
        size_bytes = self._size_bytes + value_bytes
        if key in self._changes:
            size_bytes -= len(self._changes[key] or b"")
        elif len(self._changes) == TRANSACTION_MAX_KEYS:
            raise ValueError(f"an operation changes more than {TRANSACTION_MAX_KEYS} keys")
        else:
            size_bytes += len(key)
        if size_bytes > TRANSACTION_MAX_BYTES:
            raise ValueError(f"an operation changes more than {TRANSACTION_MAX_BYTES} bytes")
        self._size_bytes = size_bytes


class NestedBuffer(BufferedTransaction):
    """A part of a transaction that is made as a whole or not at all."""

    __slots__ = ("_outer",)

    def __init__(self, outer: BufferedTransaction) -> None:
        super().__init__(outer)
        self._outer = outer

    def join(self, *, spare_keys: int, spare_bytes: int) -> bool:
        """Make all changes in the transaction below if that leaves it so much room; tells whether it did."""
        return self._outer.absorb(self._changes, spare_keys, spare_bytes)


class Prefetched:
    """A view of which some keys are known already."""

    __slots__ = ("_below", "_known")

    def __init__(self, below: ReadTransaction, known: Changes) -> None:
        """`known`: the value of each such key in `below`, None for an absent one."""
        self._below = below
        self._known = known

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        if key in self._known:
            return self._known[key]
        return self._below.get(key)

    def get_many(self, wanted: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """The value of each key, or None: cheaper than one after another."""
        return _look_up(wanted, self._known, self._below)

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Pair]:
        """Pairs with start <= key < end in key order (descending when `reverse`)."""
        return self._below.scan(start, end, limit=limit, reverse=reverse)


def run_operations(
    snapshot: ReadTransaction, operations: Sequence[Operation]
) -> tuple[list[Outcome], Changes]:
    """Run `operations` in order over `snapshot`: the outcome of each, and the changes of all that succeeded.

    Raises EngineError when the engine failed under one of them, as the others cannot be trusted then.
    """
    batch = Overlay(snapshot)
    outcomes: list[Outcome] = []
    for operation in operations:
        transaction = BufferedTransaction(batch)
        try:
            value = operation.body(transaction)
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever undoes an operation is its outcome
            outcomes.append(Outcome(error=error))
        else:
            batch.apply(transaction.changes)
            outcomes.append(Outcome(value))
    return outcomes, batch.changes


def _look_up(wanted: Iterable[bytes], known: Changes, below: ReadTransaction) -> dict[bytes, bytes | None]:
    """The values of keys, of which `known` has some and `below` the others."""
    found = dict.fromkeys(wanted)
    unknown = [key for key in found if key not in known]
    found.update((key, known[key]) for key in found if key in known)
    if unknown:
        found.update(below.get_many(unknown))
    return found


def scan_pages(
    fetch: FetchPage, start: bytes, end: bytes, limit: int | None, reverse: bool
) -> Iterator[Pair]:
    """A scan in pages from `fetch(start, end, count, reverse)`, so that nothing stays open between them."""
    left = limit
    while left is None or left > 0:
        count = SCAN_PAGE_KEYS if left is None else min(left, SCAN_PAGE_KEYS)
        page = fetch(start, end, count, reverse)
        yield from page
        if len(page) < count:
            return
        if left is not None:
            left -= count
        if reverse:
            end = page[-1][0]
        else:
            start = page[-1][0] + b"\0"  # the least key that is greater


def _merge(
    changed: Sequence[tuple[bytes, bytes | None]], below: Iterator[Pair], *, reverse: bool
) -> Iterator[Pair]:
    """`below` with `changed` made to it; both in the same order."""
    pair = next(below, None)
    for key, value in changed:
        while pair is not None and (pair[0] > key if reverse else pair[0] < key):
            yield pair
            pair = next(below, None)
        if pair is not None and pair[0] == key:
            pair = next(below, None)
        if value is not None:
            yield key, value
    if pair is not None:
        yield pair
        yield from below
