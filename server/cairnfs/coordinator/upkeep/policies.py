"""Carries changed replica counts of directories out, for what is stored already.

A chunk may be shared by files of several realms, and has as many replicas as the one that wants most. So
a change is carried out by three walks: over all chunks (nothing is wished yet), over all files (what each
wishes is joined), and over all chunks again (this holds now). Commits in the meantime join their wish to
both, the one that holds and the new one, so none is lost. Every step is a durable transaction that also says
how far it came.
"""

import hashlib
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from cairnfs.base import limits
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import policies
from cairnfs.coordinator.records import (
    NO_WISH,
    ChunkRecord,
    Inode,
    Realm,
    RealmState,
    Wish,
    decode_slices,
)
from cairnfs.coordinator.upkeep.repair import Repairer
from cairnfs.engine.interface import Operation, ReadTransaction, Transaction

_DIGEST_BYTES: Final = 32
_UNCHANGED: Final = bytes(_DIGEST_BYTES)  # no realm has a number of its own
_SHORT_FILES_PER_STEP: Final = 16


Change = Callable[[ChunkRecord, bytes], ChunkRecord]


class Phase(IntEnum):
    """Where a walk is."""

    DONE = 0
    FORGETTING = 1
    ASKING = 2
    APPLYING = 3


class Walk(NamedTuple):
    """The durable state: `policies` is a digest of those carried out, or being; `after` the last key done."""

    phase: Phase
    policies: bytes
    after: bytes

    def encode(self) -> bytes:
        """The engine's value."""
        return bytes([self.phase]) + self.policies + self.after

    @classmethod
    def load(cls, txn: ReadTransaction) -> "Walk":
        """As the engine has it."""
        value = txn.get(keys.policy_walk())
        if value is None:
            return cls(Phase.DONE, _UNCHANGED, b"")
        return cls(Phase(value[0]), value[1 : 1 + _DIGEST_BYTES], value[1 + _DIGEST_BYTES :])


class Policies:
    """What is to be done next, step by step; `now` is monotonic seconds."""

    def __init__(self, repairer: Repairer) -> None:
        self._repairer = repairer
        self._next_s = 0.0
        self.phase = Phase.DONE
        self.chunks = 0  # looked at by the walk under way, in all phases

    def step(self, txn: ReadTransaction, now: float) -> Operation | None:
        """The next transaction; None when nothing is to be done now."""
        self._consider_short(txn)
        if self.phase is Phase.DONE and now < self._next_s:
            return self._settle_short(txn)
        self._next_s = now + limits.POLICY_LOOK_S
        walk, wanted = Walk.load(txn), _policies(txn)
        if wanted is not None and wanted != walk.policies:
            walk, self.chunks = Walk(Phase.FORGETTING, wanted, b""), 0
        self.phase = walk.phase
        if walk.phase is Phase.ASKING:
            return self._ask(txn, walk)
        return self._settle_short(txn) if walk.phase is Phase.DONE else self._change(txn, walk)

    def is_behind(self, txn: ReadTransaction) -> bool:
        """Whether a number is not carried out yet; a repairer may still be copying when all are."""
        walk = Walk.load(txn)
        return self.phase is not Phase.DONE or walk.phase is not Phase.DONE or _policies(txn) != walk.policies

    # ------------------------------------------------------------------ chunks

    def _change(self, txn: ReadTransaction, walk: Walk) -> Operation:
        """Forget the new wishes of some chunks, or let them hold."""
        found = chunk_table.scan_chunks(txn, walk.after, limits.REPLICA_CHANGES_PER_COMMIT)
        self.chunks += len(found)
        applying = walk.phase is Phase.APPLYING
        following = walk._replace(after=found[-1][0] if found else b"")
        if len(found) < limits.REPLICA_CHANGES_PER_COMMIT:
            following = Walk(Phase.DONE if applying else Phase.ASKING, walk.policies, b"")
        ids = [chunk_id for chunk_id, _ in found]

        def change(record: ChunkRecord, _chunk_id: bytes) -> ChunkRecord:
            return record._replace(wish=record.new_wish) if applying else record._replace(new_wish=NO_WISH)

        if applying:
            for chunk_id, record in found:
                self._repairer.consider(chunk_id, record._replace(wish=record.new_wish))
        return _rewriting(ids, change, following)

    # ------------------------------------------------------------------ files

    def _ask(self, txn: ReadTransaction, walk: Walk) -> Operation:
        """Join the wishes of some files to those of their chunks."""
        wishes: dict[bytes, Wish] = {}
        realms: dict[int, Wish] = {}
        after = walk.after
        for key, value in txn.scan(*keys.all_extents(walk.after), limit=limits.POLICY_BLOCKS_PER_STEP):
            fresh = {one.chunk_id for one in decode_slices(value)} - wishes.keys()
            if wishes and len(wishes) + len(fresh) > limits.REPLICA_CHANGES_PER_COMMIT:
                break
            after = key
            wish = _wish_of(txn, keys.short_of_replicas_ino(key), realms)
            for one in decode_slices(value):
                wishes[one.chunk_id] = wishes.get(one.chunk_id, NO_WISH).joined(wish)
        following = walk._replace(after=after)
        if after == walk.after:
            following = Walk(Phase.APPLYING, walk.policies, b"")

        def change(record: ChunkRecord, chunk_id: bytes) -> ChunkRecord:
            return record._replace(new_wish=record.new_wish.joined(wishes[chunk_id]))

        self.chunks += len(wishes)
        return _rewriting(list(wishes), change, following)

    # ------------------------------------------------------------------ new commits

    def _consider_short(self, txn: ReadTransaction) -> None:
        for key, value in txn.scan(*keys.all_short_of_replicas(), limit=_SHORT_FILES_PER_STEP):
            ino = keys.short_of_replicas_ino(key)
            first, last = policies.short_blocks(value)
            end = min(last, first + limits.POLICY_BLOCKS_PER_STEP - 1) + 1
            for _, slices in txn.scan(*keys.extent_range(ino, first, end)):
                for chunk_id in {one.chunk_id for one in decode_slices(slices)}:
                    self._repairer.consider(chunk_id, chunk_table.get_chunk(txn, chunk_id))

    def _settle_short(self, txn: ReadTransaction) -> Operation | None:
        """Forget the blocks that were considered now; a commit in between keeps its own."""
        found = list(txn.scan(*keys.all_short_of_replicas(), limit=_SHORT_FILES_PER_STEP))
        if not found:
            return None

        def settle(write: Transaction) -> None:
            for key, value in found:
                if write.get(key) != value:
                    continue
                first, last = policies.short_blocks(value)
                reached = first + limits.POLICY_BLOCKS_PER_STEP
                write.delete(key)
                if reached <= last:
                    policies.note_short(write, keys.short_of_replicas_ino(key), (reached, last))

        return Operation(settle, locks=tuple(key for key, _ in found))


def _rewriting(ids: Iterable[bytes], change: Change, following: Walk) -> Operation:
    chosen = sorted(ids)

    def rewrite(txn: Transaction) -> None:
        for chunk_id in chosen:
            record = chunk_table.get_chunk(txn, chunk_id)
            if record is not None and (changed := change(record, chunk_id)) != record:
                txn.put(keys.chunk(chunk_id), changed.encode())
        txn.put(keys.policy_walk(), following.encode())

    return Operation(rewrite, locks=(*map(keys.chunk, chosen), keys.policy_walk()))


def _wish_of(txn: ReadTransaction, ino: int, realms: dict[int, Wish]) -> Wish:
    value = txn.get(keys.inode(ino))
    realm = Inode.decode(value).realm if value is not None else 0
    if realm not in realms:
        realms[realm] = policies.wish_of_realm(txn, realm)
    return realms[realm]


def _policies(txn: ReadTransaction) -> bytes | None:
    """A digest of all numbers that realms set; None while files are still being given to a realm."""
    digest, any_set = hashlib.sha256(), False
    for key, value in txn.scan(*keys.realm_range()):
        realm = Realm.decode(value)
        if realm.state is not RealmState.ACTIVE:
            return None
        if realm.replicas:
            any_set = True
            digest.update(key + bytes([realm.replicas]))
    return digest.digest() if any_set else _UNCHANGED
