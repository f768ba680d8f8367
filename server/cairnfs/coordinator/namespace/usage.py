"""How many inodes and bytes exist, counted exactly in every transaction that changes them."""

from struct import Struct
from typing import Final, NamedTuple

from cairnfs.coordinator import keys
from cairnfs.engine.interface import ReadTransaction, Transaction

_USAGE: Final = Struct(">qq")
KEY: Final = keys.counter("usage")


class Usage(NamedTuple):
    """Inodes (unlinked ones that are not reaped yet too) and the sum of their `allocated_bytes`."""

    inodes: int
    allocated_bytes: int


def read(txn: ReadTransaction) -> Usage:
    """What is in use now."""
    value = txn.get(KEY)
    return Usage(0, 0) if value is None else Usage._make(_USAGE.unpack(value))


def change(txn: Transaction, *, inodes: int = 0, allocated_bytes: int = 0) -> None:
    """Add to (or, negative, take from) what is in use."""
    if inodes == 0 and allocated_bytes == 0:
        return
    now = read(txn)
    txn.put(KEY, _USAGE.pack(now.inodes + inodes, now.allocated_bytes + allocated_bytes))
