"""Attribute changes that wait to be sent: newer over older, nothing lost when sending fails."""

from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.pending import PendingAttributes


def test_newer_changes_win_and_the_last_one_gives_the_ctime() -> None:
    pending = PendingAttributes()
    pending.add(pb.SetAttr(ino=5, mode=0o600, uid=1), 1.0, 100)
    pending.add(pb.SetAttr(ino=5, mode=0o640, mtime_ns=7), 2.0, 200)
    assert pending.since_s == 1.0
    assert pending.take() == pb.SetAttr(ino=5, mode=0o640, uid=1, mtime_ns=7, ctime_ns=200)
    assert pending.take() is None
    pending.sent()
    assert not pending


def test_a_failed_sending_goes_below_newer_changes() -> None:
    pending = PendingAttributes()
    pending.add(pb.SetAttr(ino=5, mode=0o600, uid=1), 1.0, 100)
    pending.take()
    pending.add(pb.SetAttr(ino=5, mode=0o640), 2.0, 200)
    pending.failed()
    assert pending.take() == pb.SetAttr(ino=5, mode=0o640, uid=1, ctime_ns=200)


def test_older_attributes_from_the_coordinator_do_not_hide_them() -> None:
    inode = Inode(5)
    inode.learn(common_pb2.Attr(ino=5, mode=0o100644, change=1))
    inode.pending.add(pb.SetAttr(ino=5, mode=0o600, uid=9), 1.0, 100)
    inode.pending.take()
    inode.pending.add(pb.SetAttr(ino=5, gid=8), 1.0, 200)
    inode.learn(common_pb2.Attr(ino=5, mode=0o100644, change=2, size=10))
    assert inode.attr == common_pb2.Attr(ino=5, mode=0o100600, uid=9, gid=8, size=10, change=2, ctime_ns=200)


def test_a_write_takes_the_mtime_over() -> None:
    pending = PendingAttributes()
    pending.add(pb.SetAttr(ino=5, mtime_ns=7), 1.0, 100)
    pending.written()
    assert pending.take() == pb.SetAttr(ino=5, ctime_ns=100)
