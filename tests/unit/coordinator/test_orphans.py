"""Unlinked inodes live while a session has them open, and no longer (invariant 5)."""

import pytest

from cairnfs.coordinator.namespace.reap import list_orphans
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import LEASE_S, ROOT, Client, Cluster


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def orphans(cluster: Cluster) -> list[int]:
    return list(cluster.engine.read(list_orphans))


def exists(client: Client, ino: int) -> bool:
    reply = client.call(get_attr=pb.GetAttr(ino=ino))
    return reply.error == common.ERROR_CODE_OK


def test_an_inode_nobody_has_open_is_reaped_at_once(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = a.create(b"f")
    a.ok(unlink=pb.Unlink(parent=ROOT, name=b"f"))
    assert not orphans(cluster)
    assert not exists(a, ino)
    assert not a.recalls


def test_kept_open_by_its_own_session_until_release(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = a.create(b"f")
    a.ok(unlink=pb.Unlink(parent=ROOT, name=b"f", keep_open=True))
    assert orphans(cluster) == [ino]
    assert exists(a, ino)
    a.ok(release=pb.Release(ino=ino))
    assert not exists(a, ino)


def test_kept_open_by_another_session(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(unlink=pb.Unlink(parent=ROOT, name=b"f"))
    while a.recalls:
        a.answer(still_open=(ino,), writing=(ino,))
    assert b.replies[seq].remove.attr.nlink == 0
    assert orphans(cluster) == [ino]
    a.ok(release=pb.Release(ino=ino))
    assert not orphans(cluster)


def test_an_open_answered_during_the_removal_keeps_it(cluster: Cluster) -> None:
    """The reader's Open came while the unlink was being committed."""
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.ok(mknod=pb.MkNod(parent=ROOT, name=b"f", mode=0o100644)).entry.attr.ino
    cluster.held = True
    removal = a.send(unlink=pb.Unlink(parent=ROOT, name=b"f"))
    opened = b.send(open=pb.Open(ino=ino))
    assert b.replies[opened].error == common.ERROR_CODE_OK
    cluster.held = False
    cluster.settle()
    while b.recalls:
        b.answer(still_open=(ino,))
    assert removal in a.replies
    assert orphans(cluster) == [ino]
    b.ok(release=pb.Release(ino=ino))
    assert not orphans(cluster)


def test_the_removers_own_open_during_the_removal_keeps_it(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = a.ok(mknod=pb.MkNod(parent=ROOT, name=b"f", mode=0o100644)).entry.attr.ino
    cluster.held = True
    a.send(unlink=pb.Unlink(parent=ROOT, name=b"f"))
    a.send(open=pb.Open(ino=ino))
    cluster.held = False
    cluster.settle()
    assert orphans(cluster) == [ino]


def test_replacing_by_rename_leaves_an_orphan_too(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = a.create(b"old")
    a.create(b"new")
    rename = pb.Rename(parent=ROOT, name=b"new", new_parent=ROOT, new_name=b"old", keep_open=True)
    a.ok(rename=rename)
    assert orphans(cluster) == [ino]
    a.ok(release=pb.Release(ino=ino))
    assert not orphans(cluster)


def test_goodbye_reaps(cluster: Cluster) -> None:
    a = cluster.client("a")
    a.create(b"f")
    a.ok(unlink=pb.Unlink(parent=ROOT, name=b"f", keep_open=True))
    a.message(goodbye=True)
    assert not orphans(cluster)


@pytest.mark.announces_warnings("session_fenced")
def test_fencing_reaps(cluster: Cluster) -> None:
    a = cluster.client("a")
    a.create(b"f")
    a.ok(unlink=pb.Unlink(parent=ROOT, name=b"f", keep_open=True))
    a.disconnect()
    cluster.advance(LEASE_S + 1)
    assert not orphans(cluster)


def test_after_a_restart_orphans_that_nobody_reclaims_are_reaped(cluster: Cluster) -> None:
    a = cluster.client("a")
    kept = a.create(b"f")
    gone = a.create(b"g")
    for name in (b"f", b"g"):
        a.ok(unlink=pb.Unlink(parent=ROOT, name=name, keep_open=True))
    cluster.restart()
    assert sorted(orphans(cluster)) == [kept, gone]
    a.connect(incarnation=1, open_inodes=[kept])
    assert orphans(cluster) == [kept]
    a.ok(release=pb.Release(ino=kept))
    assert not orphans(cluster)


def test_a_large_orphan_goes_in_steps(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = a.create(b"f")
    value = b"x" * 1_000
    for number in range(1_000):
        a.ok(set_xattr=pb.SetXattr(ino=ino, name=b"user.%d" % number, value=value))
    a.ok(unlink=pb.Unlink(parent=ROOT, name=b"f"))
    assert not orphans(cluster)
    assert not exists(a, ino)
