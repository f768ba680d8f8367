"""How many inodes and bytes exist, per realm, counted exactly in every transaction that changes them.

docs/internals/realms.md tells what a realm is. Limits hold here: nothing else decides about EDQUOT.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import ROOT_INO
from cairnfs.coordinator import keys
from cairnfs.coordinator.records import Realm, RealmState
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb


class Usage(NamedTuple):
    """Inodes (unlinked ones that are not reaped yet too) and the sum of their `allocated_bytes`."""

    inodes: int
    allocated_bytes: int


NOTHING: Final = Usage(0, 0)


def find_realm(txn: ReadTransaction, ino: int) -> Realm | None:
    """The realm of that directory, or None when it is none."""
    value = txn.get(keys.realm(ino))
    return None if value is None else Realm.decode(value)


def load_realm(txn: ReadTransaction, ino: int) -> Realm:
    """The realm with this number. Raises CairnError IO when there is none: the metadata is damaged."""
    realm = find_realm(txn, ino)
    if realm is None:
        raise CairnError(pb.ERROR_CODE_IO, f"there is no realm {ino}")
    return realm


def save_realm(txn: Transaction, ino: int, realm: Realm) -> None:
    """Write a realm."""
    txn.put(keys.realm(ino), realm.encode())


def chain(txn: ReadTransaction, ino: int) -> Iterator[tuple[int, Realm]]:
    """The realm and all that enclose it, up to the root's. Raises CairnError IO."""
    while ino:
        realm = load_realm(txn, ino)
        yield ino, realm
        ino = realm.parent


def read(txn: ReadTransaction, realm: int = ROOT_INO) -> Usage:
    """What is in use now in a realm and those in it; of the root's: in the whole file system."""
    found = find_realm(txn, realm)
    return NOTHING if found is None else Usage(found.used_inodes, found.used_bytes)


def change(
    txn: Transaction,
    realm: int,
    *,
    inodes: int = 0,
    allocated_bytes: int = 0,
    forced: bool = False,
) -> None:
    """Add to (or, negative, take from) what is in use in `realm`, as inode records have it.

    Raises CairnError QUOTA when that is more than a limit allows, unless it is `forced`.
    """
    if inodes == 0 and allocated_bytes == 0:
        return
    grows_inodes = not forced and inodes > 0
    grows_bytes = not forced and allocated_bytes > 0
    for ino, found in chain(txn, realm):
        changed = found._replace(
            used_inodes=found.used_inodes + inodes, used_bytes=found.used_bytes + allocated_bytes
        )
        _check(ino, changed, inodes=grows_inodes, space=grows_bytes)
        save_realm(txn, ino, changed)


def move(txn: Transaction, source: int, target: int, moved: Usage, *, forced: bool = False) -> None:
    """Let `moved` count to realm `target` instead of `source`; realms that enclose both stay as they are.

    Raises CairnError QUOTA as `change` does.
    """
    sources = [ino for ino, _ in chain(txn, source)]
    targets = [ino for ino, _ in chain(txn, target)]
    for ino in targets:
        if ino not in sources:
            found = load_realm(txn, ino)
            changed = found._replace(
                used_inodes=found.used_inodes + moved.inodes,
                used_bytes=found.used_bytes + moved.allocated_bytes,
            )
            _check(ino, changed, inodes=not forced, space=not forced and moved.allocated_bytes > 0)
            save_realm(txn, ino, changed)
    for ino in sources:
        if ino not in targets:
            found = load_realm(txn, ino)
            changed = found._replace(
                used_inodes=found.used_inodes - moved.inodes,
                used_bytes=found.used_bytes - moved.allocated_bytes,
            )
            save_realm(txn, ino, changed)


def _check(ino: int, realm: Realm, *, inodes: bool, space: bool) -> None:
    if realm.state != RealmState.ACTIVE:
        return
    if inodes and 0 < realm.inodes_limit < realm.used_inodes:
        raise CairnError(pb.ERROR_CODE_QUOTA, f"realm {ino} is limited to {realm.inodes_limit} inodes")
    if space and 0 < realm.space_limit_bytes < realm.used_bytes:
        raise CairnError(pb.ERROR_CODE_QUOTA, f"realm {ino} is limited to {realm.space_limit_bytes} bytes")


class Room(NamedTuple):
    """What a limit allows and leaves."""

    limit: int
    left: int


def tightest(txn: ReadTransaction, realm: int) -> tuple[Room | None, Room | None]:
    """Of the limits on bytes and on inodes that hold in `realm`, those that leave the least."""
    space: Room | None = None
    inodes: Room | None = None
    for _, found in chain(txn, realm):
        if found.state != RealmState.ACTIVE:
            continue
        if found.space_limit_bytes:
            room = Room(found.space_limit_bytes, max(0, found.space_limit_bytes - found.used_bytes))
            space = room if space is None or room.left < space.left else space
        if found.inodes_limit:
            room = Room(found.inodes_limit, max(0, found.inodes_limit - found.used_inodes))
            inodes = room if inodes is None or room.left < inodes.left else inodes
    return space, inodes
