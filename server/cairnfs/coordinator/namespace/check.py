"""The metadata checker behind fsck: walks everything in bounded steps and compares every count.

Steps may see different snapshots while the file system is in use. A difference is therefore a fault only if
what it is about did not change between the first look and a last one (the change counter of an inode, the
references of a chunk); what did change is left for the next check. It only reads, and keeps a few numbers per
inode and chunk in memory. How a finding can be mended goes with it (mends.py).
"""

import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from cairnfs.base.limits import (
    FSCK_MENDS_MAX,
    FSCK_PROBLEMS_MAX,
    REPLIES_PURGED_AT_ONCE,
    ROOT_INO,
    SNAPSHOTS_REALM,
    TRASH_INO,
)
from cairnfs.base.reserved import SNAPSHOTS, is_hidden
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import mends, policy, realm_mends, trash, tree, tree_jobs, usage
from cairnfs.coordinator.records import ChunkRecord, Dentry, Inode, Realm, RealmState, Trashed, decode_slices
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


class _Seen(NamedTuple):
    """What the first look at an inode found."""

    kind: int
    nlink: int
    change: int
    allocated_bytes: int
    realm: int


_DIRECTORY: Final = stat.S_IFDIR >> 12


class Checker:
    """One check. Call `step` with fresh transactions until it returns true, then take `report`.

    `live` tells whether a node's replicas count; `wanted_replicas` is what a chunk should have.
    """

    def __init__(self, wanted_replicas: int, live: Callable[[int], bool]) -> None:
        self.report = pb.FsckReport()
        self.mends: list[mends.Mend] = []
        self._wanted_replicas = wanted_replicas
        self._live = live
        self._inodes: dict[int, _Seen] = {}
        self._links: defaultdict[int, int] = defaultdict(int)
        self._subdirectories: defaultdict[int, int] = defaultdict(int)
        self._allocated: defaultdict[int, int] = defaultdict(int)
        self._references: dict[bytes, int] = {}
        self._slices: defaultdict[bytes, int] = defaultdict(int)
        self._homes: dict[int, tuple[int, bytes]] = {}  # directory -> where its first name is
        self._unknown_lengths: dict[bytes, int] = {}
        self._usage = usage.Usage(0, 0)
        self._realms: dict[int, Realm] = {}
        self._after = b""
        self._after_ino = 0
        self._after_trashed = 0
        self._suspect_inodes: Iterator[int] = iter(())
        self._suspect_chunks: Iterator[bytes] = iter(())
        self._phases = [
            ("chunks", self._walk_chunks),
            ("inodes", self._walk_inodes),
            ("names", self._walk_names),
            ("extents", self._walk_extents),
            ("links", self._judge_inodes),
            ("references", self._judge_chunks),
            ("garbage", self._walk_garbage),
            ("replies", self._walk_replies),
            ("trash", self._walk_trash),
            ("usage", self._judge_usage),
        ]

    @property
    def phase(self) -> str:
        """What the next step does, for people."""
        return self._phases[0][0] if self._phases else "done"

    def step(self, txn: ReadTransaction, limit: int = 1_000) -> bool:
        """Look at about `limit` records more; true when the check is complete."""
        if self._phases and self._phases[0][1](txn, limit):
            self._after = b""
            self._phases.pop(0)
        return not self._phases

    def _problem(
        self,
        field: str,
        text: str,
        mend: mends.Apply | None = None,
        *touches: int,
        doubtful: bool = False,
    ) -> None:
        setattr(self.report, field, getattr(self.report, field) + 1)
        if len(self.report.problems) < FSCK_PROBLEMS_MAX:
            self.report.problems.append(text)
        if mend is not None and len(self.mends) < FSCK_MENDS_MAX:
            self.mends.append(mends.Mend(text, touches, mend, doubtful))

    # -------------------------------------------------------------- the walks

    def _walk_chunks(self, txn: ReadTransaction, limit: int) -> bool:
        if not self._after:
            self._usage = usage.read(txn)
            self._realms = dict(policy.scan(txn))
        found = chunk_table.scan_chunks(txn, self._after, limit)
        for chunk_id, record in found:
            self._after = chunk_id
            self.report.chunks += 1
            self._references[chunk_id] = record.references
            self._check_replicas(txn, chunk_id, record)
        return len(found) < limit

    def _check_replicas(self, txn: ReadTransaction, chunk_id: bytes, record: ChunkRecord) -> None:
        if record.references == 0:
            self.report.unreferenced += 1
            if txn.get(keys.garbage(record.garbage_since_ns, chunk_id)) is None:
                text = f"chunk {chunk_id.hex()} would never be collected"
                self._problem("wrong_references", text, mends.list_as_garbage(chunk_id))
            return
        if not record.nodes:
            self._problem("missing", f"chunk {chunk_id.hex()} has no replica")
            return
        live = sum(1 for node in record.nodes if self._live(node))
        if live < self._wanted_replicas:
            self.report.under_replicated += 1
        elif live > self._wanted_replicas:
            self.report.over_replicated += 1

    def _walk_inodes(self, txn: ReadTransaction, limit: int) -> bool:
        count = 0
        for key, value in txn.scan(*keys.inode_range(self._after_ino), limit=limit):
            count += 1
            ino = self._after_ino = keys.inode_of(key)
            inode = Inode.decode(value)
            self._inodes[ino] = _Seen(
                inode.mode >> 12, inode.nlink, inode.change, inode.allocated_bytes, inode.realm
            )
            self.report.inodes += 1
            self.report.directories += tree.is_directory(inode)
            if inode.xattrs and sum(1 for _ in txn.scan(*keys.xattr_range(ino))) != inode.xattrs:
                text = f"inode {ino} miscounts its extended attributes"
                self._problem("wrong_usage", text, mends.count_xattrs(ino), ino)
            if stat.S_ISLNK(inode.mode) and txn.get(keys.symlink(ino)) is None:
                self._problem("dangling", f"symbolic link {ino} has no target", mends.give_target(ino), ino)
        return count < limit

    def _walk_names(self, txn: ReadTransaction, limit: int) -> bool:
        count = 0
        for key, value in txn.scan(*keys.all_dentries(self._after), limit=limit):
            count += 1
            self._after = key
            self._check_name(txn, keys.inode_of(key), keys.dentry_name(key), Dentry.decode(value))
        return count < limit

    def _check_name(self, txn: ReadTransaction, directory: int, name: bytes, entry: Dentry) -> None:
        self._links[entry.ino] += 1
        counted = entry.kind == _DIRECTORY and not is_hidden(directory, name)
        self._subdirectories[directory] += tree.links_of(directory, int(counted))
        where = f"{name!r} in directory {directory}"
        removal = mends.remove_entry(directory, name, entry)
        correction = mends.correct_entry(directory, name, entry.ino)
        inode = tree.find_inode(txn, entry.ino)
        if inode is None:
            self._problem("dangling", f"{where} leads to the missing inode {entry.ino}", removal, directory)
        elif inode.mode >> 12 != entry.kind:
            text = f"{where} says another type than inode {entry.ino}"
            self._problem("wrong_links", text, correction, directory, entry.ino)
        elif tree.is_directory(inode) and inode.parent != directory:
            text = f"{where} is directory {entry.ino} with parent {inode.parent}"
            self._problem("wrong_links", text, correction, directory, entry.ino)
        elif tree.is_directory(inode):
            first = self._homes.setdefault(entry.ino, (directory, name))
            if first != (directory, name) and first[0] == directory:
                text = f"{where} is a second name of directory {entry.ino}"
                second = mends.remove_second_name(directory, first[1], name)
                self._problem("wrong_links", text, second, directory, entry.ino)
        if directory == TRASH_INO and not trash.is_recorded(txn, name, entry.ino):
            text = f"{where}, the trash, without a record of where it was"
            self._problem("dangling", text, mends.remove_from_trash(name, entry), entry.ino)
        is_shelf = inode is not None and inode.realm == SNAPSHOTS_REALM and name == SNAPSHOTS
        if inode is not None and not is_shelf and (inode.realm != ROOT_INO or len(self._realms) > 1):
            self._check_realm(txn, directory, name, entry.ino, inode)
        if directory not in self._inodes and tree.find_inode(txn, directory) is None:
            self._problem("dangling", f"{where}, which does not exist", removal)

    def _check_realm(self, txn: ReadTransaction, directory: int, name: bytes, ino: int, inode: Inode) -> None:
        """An inode belongs to the realm of its directory; of several, to that of one of them."""
        where = f"{name!r} in directory {directory}"
        parent = tree.find_inode(txn, directory)
        if parent is None or inode.realm in (parent.realm, ino) or (inode.nlink > 1 and not inode.parent):
            return
        realms = [usage.find_realm(txn, realm) for realm in (inode.realm, parent.realm)]
        if all(realm is None or realm.state == RealmState.ACTIVE for realm in realms):
            wrong = f"inode {ino} belongs to realm {inode.realm} instead of realm {parent.realm}"
            mend = realm_mends.join_realm(directory, name, ino)
            self._problem("wrong_usage", f"{where}: {wrong}", mend, directory, ino)

    def _walk_extents(self, txn: ReadTransaction, limit: int) -> bool:
        count = 0
        for key, value in txn.scan(*keys.all_extents(self._after), limit=limit):
            count += 1
            self._after = key
            ino = keys.inode_of(key)
            end = 0
            for one in decode_slices(value):
                self._allocated[ino] += one.length
                self._slices[one.chunk_id] += 1
                if one.chunk_id not in self._references:
                    self._unknown_lengths[one.chunk_id] = one.chunk_length
                if mends.is_bad(one, end):
                    block = keys.extent_block(key)
                    text = f"bad slice at {one.offset} in block {block} of {ino}"
                    self._problem("wrong_references", text, mends.drop_slices(ino, block), ino)
                end = one.end
        return count < limit

    # -------------------------------------------------------------- the judgements

    def _judge_inodes(self, txn: ReadTransaction, limit: int) -> bool:
        if not self._after:
            self._after = b"started"
            strangers = (ino for ino in self._allocated if ino not in self._inodes)
            self._suspect_inodes = iter([*filter(self._is_suspect, self._inodes), *strangers])
        suspects = list(islice(self._suspect_inodes, limit))
        for ino in suspects:
            self._judge_inode(txn, ino)
        return len(suspects) < limit

    def _is_suspect(self, ino: int) -> bool:
        seen = self._inodes[ino]
        return (
            seen.nlink == 0
            or seen.nlink != self._expected_links(ino, seen)
            or seen.allocated_bytes != self._allocated.get(ino, 0)
        )

    def _expected_links(self, ino: int, seen: _Seen) -> int:
        names = self._links.get(ino, 0)
        if seen.kind != _DIRECTORY:
            return names
        if names != (0 if ino == ROOT_INO else 1):
            return 0
        return 2 + self._subdirectories.get(ino, 0)

    def _judge_inode(self, txn: ReadTransaction, ino: int) -> None:
        inode = tree.find_inode(txn, ino)
        seen = self._inodes.get(ino)
        if seen is None:
            if inode is None:
                blocks = (keys.extent_block(key) for key, _ in txn.scan(*keys.extent_range(ino)))
                for block in blocks:
                    text = f"block {block} of the missing inode {ino}"
                    self._problem("wrong_usage", text, mends.drop_slices(ino, block))
            return
        if inode is None or inode.change != seen.change:
            return
        self._links[ino] += tree_jobs.is_root(txn, ino)  # of a tree that is copied or removed: it has no name
        names = self._links[ino]
        if names == 0 and ino != ROOT_INO:
            if inode.nlink > 0 or txn.get(keys.orphan(ino)) is None:
                text = f"inode {ino} has no name and is not to be reaped"
                home = tree.find_entry(txn, ROOT_INO, mends.LOST_AND_FOUND)
                touched = (ino, ROOT_INO) if home is None else (ino, home.ino)
                self._problem("orphaned", text, mends.attach(ino, inode.change), *touched)
        elif inode.nlink != self._expected_links(ino, seen):
            expected = self._expected_links(ino, seen)
            text = f"inode {ino} counts {inode.nlink} links instead of {expected}"
            self._problem("wrong_links", text, mends.set_links(ino, inode.change, expected), ino)
        held = self._allocated.get(ino, 0)
        if inode.allocated_bytes != held:
            text = f"inode {ino} counts {inode.allocated_bytes} bytes, holds {held}"
            self._problem("wrong_usage", text, mends.count_allocated(ino), ino)

    def _judge_chunks(self, txn: ReadTransaction, limit: int) -> bool:
        if not self._after:
            self._after = b"started"
            chunks = {**self._references, **self._slices}
            self._suspect_chunks = iter(
                [one for one in chunks if self._references.get(one) != self._slices.get(one, 0)]
            )
        suspects = list(islice(self._suspect_chunks, limit))
        for chunk_id in suspects:
            record = chunk_table.get_chunk(txn, chunk_id)
            if record is None and chunk_id in self._slices:
                text, length = (
                    f"slices of the unknown chunk {chunk_id.hex()}",
                    self._unknown_lengths.get(chunk_id),
                )
                if length is not None:
                    mend = mends.restore_record(chunk_id, length, self._slices[chunk_id])
                    self._problem("wrong_references", text, mend)
            elif record is not None and record.references == self._references.get(chunk_id):
                seen, counted = record.references, self._slices.get(chunk_id, 0)
                text = f"chunk {chunk_id.hex()} counts {seen} references, has {counted}"
                mend = mends.set_references(chunk_id, seen, counted)
                self._problem("wrong_references", text, mend, doubtful=True)
        return len(suspects) < limit

    def _walk_garbage(self, txn: ReadTransaction, limit: int) -> bool:
        count = 0
        for key, _ in txn.scan(*keys.all_garbage(self._after), limit=limit):
            count += 1
            self._after = key
            since_ns, chunk_id = keys.garbage_since_ns(key), keys.garbage_chunk_id(key)
            if not mends.is_listed_rightly(txn, since_ns, chunk_id):
                text = f"chunk {chunk_id.hex()} is listed as garbage since {since_ns}, and is not"
                self._problem("wrong_references", text, mends.unlist_garbage(since_ns, chunk_id))
        return count < limit

    def _walk_replies(self, txn: ReadTransaction, limit: int) -> bool:
        count = 0
        strays: defaultdict[str, list[bytes]] = defaultdict(list)
        for key, _ in txn.scan(*keys.all_replies(self._after), limit=min(limit, REPLIES_PURGED_AT_ONCE)):
            count += 1
            self._after = key
            strays[keys.reply_session_id(key)].append(key)
        for session_id, replies in strays.items():
            if mends.is_without_session(txn, session_id):
                text = f"{len(replies)} replies to session {session_id}, which has ended"
                self._problem("dangling", text, mends.delete_replies(session_id, replies))
        return count < min(limit, REPLIES_PURGED_AT_ONCE)

    def _walk_trash(self, txn: ReadTransaction, limit: int) -> bool:
        count = 0
        for key, value in txn.scan(*keys.all_trashed(self._after_trashed), limit=limit):
            count += 1
            ino = self._after_trashed = keys.inode_of(key)
            record = Trashed.decode(value)
            if trash.is_stray(txn, ino, record):
                text = f"the trash has a record of inode {ino}, and no entry"
                self._problem("dangling", text, mends.forget_trashed(ino))
            elif txn.get(keys.trash_end(record.expires_ns, ino)) is None:
                text = f"inode {ino} would never leave the trash"
                self._problem("dangling", text, mends.list_trash_end(ino))
        if count < limit:
            for key, _ in txn.scan(*keys.all_trash_ends(self._after), limit=limit):
                self._after = key
                ino, end_ns = keys.trash_end_ino(key), keys.trash_end_ns(key)
                if not trash.is_end(txn, ino, end_ns):
                    text = f"inode {ino} is to leave the trash at {end_ns}, where it is not"
                    self._problem("dangling", text, mends.unlist_trash_end(ino, end_ns))
                count += 1
        return count < limit

    def _judge_usage(self, txn: ReadTransaction, _limit: int) -> bool:
        now = usage.read(txn)
        counted = usage.Usage(self.report.inodes, sum(self._allocated.values()))
        if now == self._usage != counted:
            text = f"usage counts {now}, there are {counted}"
            mend = realm_mends.set_usage(ROOT_INO, now, counted)
            self._problem("wrong_usage", text, mend, doubtful=True)
        realms = dict(policy.scan(txn))
        if realms == self._realms:
            self._judge_realms(realms)
        return True

    def _judge_realms(self, realms: dict[int, Realm]) -> None:
        members: defaultdict[int, list[int]] = defaultdict(list)
        for ino, seen in self._inodes.items():
            members[seen.realm].append(ino)
        held: defaultdict[int, usage.Usage] = defaultdict(lambda: usage.NOTHING)
        for realm, inos in members.items():
            taken = sum(self._allocated.get(ino, 0) for ino in inos)
            above = realm
            while above:
                inodes, allocated_bytes = held[above]
                held[above] = usage.Usage(inodes + len(inos), allocated_bytes + taken)
                above = realms[above].parent if above in realms else 0
        for realm in members.keys() - realms.keys():
            self._judge_missing_realm(realm, members[realm], held[realm])
        for ino, found in realms.items():
            counted = usage.Usage(found.used_inodes, found.used_bytes)
            if ino != ROOT_INO and counted != held[ino]:
                text = f"realm {ino} counts {counted}, there are {held[ino]}"
                mend = realm_mends.set_usage(ino, counted, held[ino])
                self._problem("wrong_usage", text, mend, doubtful=True)

    def _judge_missing_realm(self, realm: int, inos: list[int], held: usage.Usage) -> None:
        top = self._inodes.get(realm)
        if realm == SNAPSHOTS_REALM or (top is not None and top.realm == realm):
            text = f"{len(inos)} inodes belong to the missing realm {realm}"
            self._problem("wrong_usage", text, realm_mends.restore_realm(realm, held), realm)
            return
        for ino in inos:
            text = f"inode {ino} belongs to the missing realm {realm}"
            self._problem("wrong_usage", text, realm_mends.leave_realm(ino, realm), ino)
