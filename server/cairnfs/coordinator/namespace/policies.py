"""How many replicas a file wants: what the policy of its realm says (docs/internals/realms.md)."""

from collections.abc import Collection
from struct import Struct
from typing import Final

from cairnfs.base.limits import SNAPSHOTS_REALM
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import usage
from cairnfs.coordinator.records import NO_WISH, Inode, Wish
from cairnfs.engine.interface import ReadTransaction, Transaction

_SHORT: Final = Struct(">QQQ")  # first and last block, and how many notes there were
DEFAULT: Final = Wish(default=True)


def wish_of(txn: ReadTransaction, ino: int) -> Wish:
    """What the file with this number wants; one without an inode wants what is usual."""
    value = txn.get(keys.inode(ino))
    return DEFAULT if value is None else wish_of_realm(txn, Inode.decode(value).realm)


def wish_of_realm(txn: ReadTransaction, realm: int) -> Wish:
    """What files of a realm want: the nearest number that it or an enclosing realm sets.

    Those of snapshots want nothing: their chunks are kept as the files that they were taken of want it.
    """
    if realm == SNAPSHOTS_REALM:
        return NO_WISH
    while realm:
        found = usage.find_realm(txn, realm)
        if found is None:
            break
        if found.replicas:
            return Wish(found.replicas)
        realm = found.parent
    return DEFAULT


def note_short(txn: Transaction, ino: int, blocks: Collection[int]) -> None:
    """Chunks of these blocks were committed with too few replicas for their policy: repair looks at them."""
    first, last, number = min(blocks), max(blocks), 1
    known = txn.get(keys.short_of_replicas(ino))
    if known is not None:
        before = _SHORT.unpack(known)
        first, last, number = min(first, before[0]), max(last, before[1]), before[2] + 1
    txn.put(keys.short_of_replicas(ino), _SHORT.pack(first, last, number))


def short_blocks(value: bytes) -> tuple[int, int]:
    """First and last block in a value that `note_short` wrote."""
    first, last, _number = _SHORT.unpack(value)
    return first, last
