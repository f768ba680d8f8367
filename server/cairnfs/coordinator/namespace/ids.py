"""Unused inode numbers, reserved in the engine in ranges of limits.ID_RANGE and given out from memory."""

from typing import Final

from cairnfs.base.limits import ID_RANGE, ROOT_INO
from cairnfs.coordinator import keys
from cairnfs.engine.interface import ReadTransaction, Transaction

_COUNTER: Final = keys.counter("inode")


def first_unreserved(txn: ReadTransaction) -> int:
    """The first inode number that nobody was given yet."""
    value = txn.get(_COUNTER)
    return ROOT_INO + 1 if value is None else int.from_bytes(value, "big")


def reserve_inode_numbers(txn: Transaction, count: int = ID_RANGE) -> range:
    """Take the next `count` numbers for good: run it in a commit, then use the result.

    Numbers that a coordinator or a session did not use are lost when it stops, which 64 bits allow.
    """
    first = first_unreserved(txn)
    txn.put(_COUNTER, (first + count).to_bytes(8, "big"))
    return range(first, first + count)


class IdAllocator:
    """Gives out reserved inode numbers, each once."""

    def __init__(self) -> None:
        self._ranges: list[range] = []

    @property
    def remaining(self) -> int:
        """How many numbers can be taken before the next refill."""
        return sum(len(one) for one in self._ranges)

    @property
    def wants_refill(self) -> bool:
        """Whether it is time to reserve more, well before the last number is taken."""
        return self.remaining <= ID_RANGE // 2

    def add(self, numbers: range) -> None:
        """Make newly reserved numbers available."""
        self._ranges.append(numbers)

    def take(self) -> int:
        """An inode number nobody else gets. Raises IndexError when none is left: refill first."""
        current = self._ranges[0]
        number = current[0]
        if len(current) == 1:
            del self._ranges[0]
        else:
            self._ranges[0] = current[1:]
        return number
