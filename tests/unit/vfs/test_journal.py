"""The journal core: order, batches, what replies settle."""

import pytest

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.journal import Entry, Journal

CALLER = pb.Caller(uid=1, gid=2)


def made(journal: Journal, name: bytes, directory: Inode, now_s: float = 0.0) -> tuple[Entry, Inode]:
    new = Inode(1000 + journal.last)
    entry = journal.add(pb.MkNod(parent=directory.ino, name=name), CALLER, (directory,), now_s, 5, new=new)
    return entry, new


def unlinked(journal: Journal, inode: Inode, directory: Inode) -> Entry:
    op = pb.Unlink(parent=directory.ino, name=b"x")
    return journal.add(op, CALLER, (directory, inode), 0.0, 5, removed=inode)


def test_entries_travel_in_order_one_batch_at_a_time() -> None:
    journal, directory = Journal(), Inode(7)
    first, new = made(journal, b"a", directory)
    made(journal, b"b", directory)
    batch = journal.take()
    assert batch is not None
    assert [entry.mknod.name for entry in batch.entries] == [b"a", b"b"]
    assert list(batch.entries[0].touches) == [7]
    assert batch.entries[0].new_ino == new.ino
    assert batch.entries[0].caller == CALLER
    third, _ = made(journal, b"c", directory)
    assert journal.take() is None
    assert directory.journaled == 3
    assert journal.executed(pb.BatchReply(executed=2)) == []
    assert journal.settled == first.number + 1
    assert directory.journaled == 1
    assert new.journaled == 0
    assert directory.last_entry == third.number
    batch = journal.take()
    assert batch is not None
    assert len(batch.entries) == 1


def test_what_did_not_fit_is_sent_again_before_what_is_newer() -> None:
    journal, directory = Journal(), Inode(7)
    for name in (b"a", b"b", b"c"):
        made(journal, name, directory)
    journal.take()
    made(journal, b"d", directory)
    journal.executed(pb.BatchReply(executed=1))
    batch = journal.take()
    assert batch is not None
    assert [entry.mknod.name for entry in batch.entries] == [b"b", b"c", b"d"]


def test_a_batch_without_effect_is_sent_again_whole() -> None:
    journal, directory = Journal(), Inode(7)
    made(journal, b"a", directory)
    sent = journal.take()
    journal.returned()
    assert journal.settled == 0
    assert directory.journaled == 1
    assert journal.take() == sent


def test_failures_reach_who_waits_or_are_returned() -> None:
    journal, inode = Journal(), Inode(9)
    heard: list[pb.BatchResult] = []
    commit = journal.add(pb.CommitWrite(ino=9), None, (inode,), 0.0, 5, on_done=heard.append)
    gone = journal.add(pb.CommitWrite(ino=9), None, (inode,), 0.0, 5, on_done=heard.append)
    removal = unlinked(journal, inode, Inode(7))
    journal.take()
    results = [
        pb.BatchResult(index=0, allocated_bytes=10),
        pb.BatchResult(index=1, error=common.ERROR_CODE_CHUNK_GONE),
        pb.BatchResult(index=2, error=common.ERROR_CODE_NOT_FOUND, detail="why"),
    ]
    assert journal.executed(pb.BatchReply(executed=3, results=results)) == [removal]
    assert [result.allocated_bytes for result in heard] == [10]
    assert commit.error is None
    assert gone.error is not None
    assert gone.error.code == common.ERROR_CODE_CHUNK_GONE
    assert removal.error is not None
    assert removal.error.detail == "why"
    assert inode.journaled == 0


def test_a_refused_batch_fails_every_entry() -> None:
    journal = Journal()
    entry, _ = made(journal, b"a", Inode(7))
    journal.take()
    error = CairnError(common.ERROR_CODE_INTERNAL, "bug")
    assert journal.refused(error) == [entry]
    assert journal.settled == entry.number


def test_a_lost_session_takes_sent_and_waiting_entries_with_it() -> None:
    journal, directory = Journal(), Inode(7)
    first, _ = made(journal, b"a", directory)
    journal.take()
    second, _ = made(journal, b"b", directory)
    assert journal.drop(CairnError(common.ERROR_CODE_SESSION_FENCED)) == [first, second]
    assert directory.journaled == 0
    assert journal.settled == second.number
    assert len(journal) == 0


@pytest.mark.parametrize("handles", [0, 1])
def test_a_removal_says_whether_the_file_is_open_when_it_is_sent(handles: int) -> None:
    journal, inode = Journal(), Inode(9)
    inode.attr = common.Attr(nlink=0)
    unlinked(journal, inode, Inode(7))
    inode.handles = handles
    batch = journal.take()
    assert batch is not None
    assert batch.entries[0].unlink.keep_open == bool(handles)
    assert inode.registered == bool(handles)


def test_a_file_with_another_name_is_not_kept_for_who_has_it_open() -> None:
    journal, inode = Journal(), Inode(9)
    inode.attr, inode.handles = common.Attr(nlink=1), 1
    unlinked(journal, inode, Inode(7))
    batch = journal.take()
    assert batch is not None
    assert not batch.entries[0].unlink.keep_open
    assert not inode.registered


def test_batches_and_the_journal_are_bounded() -> None:
    journal, directory = Journal(), Inode(7)
    ages = [journal.oldest_s]
    room: list[tuple[bool, bool]] = [(journal.has_room, journal.has_batch)]
    for number in range(limits.JOURNAL_MAX_ENTRIES):
        made(journal, b"%d" % number, directory, now_s=1.0 + number)
        room.append((journal.has_room, journal.has_batch))
    ages.append(journal.oldest_s)
    assert ages == [float("inf"), 1.0]
    assert [room[0], room[-2], room[-1]] == [(True, False), (True, True), (False, True)]
    batch = journal.take()
    assert batch is not None
    assert len(batch.entries) == limits.JOURNAL_BATCH_ENTRIES


def test_a_large_entry_travels_all_the_same() -> None:
    journal = Journal()
    target = b"t" * (limits.JOURNAL_BATCH_MAX_BYTES + 1)
    for _ in range(2):
        journal.add(pb.Symlink(parent=7, name=b"l", target=target), CALLER, (Inode(7),), 0.0, 5)
    batch = journal.take()
    assert batch is not None
    assert len(batch.entries) == 1
