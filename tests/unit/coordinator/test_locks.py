"""POSIX byte ranges and BSD locks: conflicts, splitting, waiting, deadlocks, sessions."""

import random
from typing import Any

import pytest

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import FILE_SIZE_MAX_BYTES
from cairnfs.coordinator.locks import LockRequest, LockTable, Progress
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import Cluster

UNLOCK, READ, WRITE = pb.LOCK_TYPE_UNLOCK, pb.LOCK_TYPE_READ, pb.LOCK_TYPE_WRITE
INO = 7


def op(
    kind: "pb.LockType.ValueType",
    start: int = 0,
    end: int = 9,
    *,
    owner: int = 1,
    flock: bool = False,
    ino: int = INO,
) -> pb.SetLock:
    return pb.SetLock(
        ino=ino, owner=owner, range=pb.LockRange(type=kind, start=start, end=end, pid=owner), flock=flock
    )


def lock(table: LockTable, session: str, *args: Any, wait: bool = False, **kwargs: Any) -> Progress:
    progress, _ = table.set(LockRequest(session, op(*args, **kwargs)), wait)
    return progress


def test_readers_share_and_writers_do_not() -> None:
    table = LockTable()
    assert lock(table, "a", READ) == Progress.DONE
    assert lock(table, "b", READ) == Progress.DONE
    assert lock(table, "c", WRITE) == Progress.REFUSED
    assert lock(table, "c", WRITE, 10, 19) == Progress.DONE


def test_owners_of_one_session_exclude_each_other() -> None:
    table = LockTable()
    assert lock(table, "a", WRITE, owner=1) == Progress.DONE
    assert lock(table, "a", WRITE, owner=2) == Progress.REFUSED
    assert lock(table, "a", READ, owner=1) == Progress.DONE, "one's own lock is changed"


def test_unlocking_the_middle_leaves_both_ends() -> None:
    table = LockTable()
    lock(table, "a", WRITE, 0, 99)
    lock(table, "a", UNLOCK, 40, 59)
    assert lock(table, "b", WRITE, 40, 59) == Progress.DONE
    assert lock(table, "b", WRITE, 39, 39) == Progress.REFUSED
    assert lock(table, "b", WRITE, 60, 60) == Progress.REFUSED
    assert table.count("a") == 2


def test_neighbours_merge() -> None:
    table = LockTable()
    lock(table, "a", WRITE, 0, 9)
    lock(table, "a", WRITE, 10, 19)
    assert table.count("a") == 1


def test_conflict_is_told_with_its_range_and_process() -> None:
    table = LockTable()
    lock(table, "a", WRITE, 5, 8, owner=3)
    question = pb.GetLock(ino=INO, owner=1, range=pb.LockRange(type=READ, end=FILE_SIZE_MAX_BYTES))
    found = table.conflict(LockRequest("b", question))
    assert (found.type, found.start, found.end, found.pid) == (WRITE, 5, 8, 3)
    free = table.conflict(LockRequest("b", pb.GetLock(ino=INO + 1, range=pb.LockRange(type=READ))))
    assert free.type == UNLOCK


def test_a_range_that_ends_before_it_starts_is_invalid() -> None:
    with pytest.raises(CairnError) as caught:
        LockRequest("a", op(READ, 5, 4))
    assert caught.value.code == common.ERROR_CODE_INVALID


def test_waiting_requests_are_granted_in_their_order() -> None:
    table = LockTable()
    lock(table, "a", WRITE)
    waiting = [LockRequest(name, op(WRITE)) for name in ("b", "c")]
    for request in waiting:
        assert table.set(request, wait=True)[0] == Progress.WAITS
    _, granted = table.set(LockRequest("a", op(UNLOCK)), wait=False)
    assert granted == [waiting[0]]
    assert table.drop_session("b") == [waiting[1]]


def test_waiting_readers_are_granted_together() -> None:
    table = LockTable()
    lock(table, "a", WRITE)
    waiting = [LockRequest(name, op(READ)) for name in ("b", "c")]
    for request in waiting:
        table.set(request, wait=True)
    _, granted = table.set(LockRequest("a", op(READ)), wait=False)
    assert granted == waiting, "a downgrade lets readers in"


def test_a_cancelled_request_is_not_granted() -> None:
    table = LockTable()
    lock(table, "a", WRITE)
    request = LockRequest("b", op(WRITE))
    table.set(request, wait=True)
    assert table.cancel(request)
    assert not table.cancel(request)
    assert table.set(LockRequest("a", op(UNLOCK)), wait=False) == (Progress.DONE, [])


def test_a_circle_of_waiters_is_refused() -> None:
    table = LockTable()
    for number, session in enumerate("abc"):
        lock(table, session, WRITE, ino=number)
    assert lock(table, "a", WRITE, ino=1, wait=True) == Progress.WAITS
    assert lock(table, "b", WRITE, ino=2, wait=True) == Progress.WAITS
    with pytest.raises(CairnError) as caught:
        lock(table, "c", WRITE, ino=0, wait=True)
    assert caught.value.code == common.ERROR_CODE_DEADLOCK


def test_two_readers_that_both_upgrade_are_a_circle() -> None:
    table = LockTable()
    lock(table, "a", READ)
    lock(table, "b", READ)
    assert lock(table, "a", WRITE, wait=True) == Progress.WAITS
    with pytest.raises(CairnError):
        lock(table, "b", WRITE, wait=True)


def test_flock_is_a_space_of_its_own() -> None:
    table = LockTable()
    assert lock(table, "a", WRITE) == Progress.DONE
    assert lock(table, "b", WRITE, flock=True) == Progress.DONE
    assert lock(table, "a", READ, flock=True) == Progress.REFUSED


def test_changing_a_flock_gives_up_the_old_one_first() -> None:
    table = LockTable()
    lock(table, "a", READ, flock=True)
    lock(table, "b", READ, flock=True)
    assert lock(table, "a", WRITE, flock=True, wait=True) == Progress.WAITS
    assert lock(table, "b", WRITE, flock=True) == Progress.DONE, "no lock of a is in the way any more"
    _, granted = table.set(LockRequest("b", op(UNLOCK, flock=True)), wait=False)
    assert [request.owner[0] for request in granted] == ["a"]


def test_locks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnfs.coordinator.locks.LOCKS_PER_SESSION_MAX", 2)
    table = LockTable()
    lock(table, "a", READ, 0, 0)
    lock(table, "a", READ, 2, 2)
    with pytest.raises(CairnError) as caught:
        lock(table, "a", READ, 4, 4)
    assert caught.value.code == common.ERROR_CODE_NO_LOCKS
    assert lock(table, "a", UNLOCK, 0, 0) == Progress.DONE


@pytest.mark.parametrize("seed", range(20))
def test_ranges_agree_with_a_map_of_bytes(seed: int) -> None:
    rng = random.Random(seed)
    table = LockTable()
    model: dict[tuple[str, int], int] = {}
    for _ in range(300):
        owner, start = rng.choice("abc"), rng.randrange(20)
        end, kind = rng.randrange(start, 20), rng.choice((UNLOCK, READ, WRITE))
        taken = kind != UNLOCK and any(
            WRITE in (kind, other)
            for (name, byte), other in model.items()
            if name != owner and start <= byte <= end
        )
        progress = lock(table, owner, kind, start, end)
        assert progress == (Progress.REFUSED if taken else Progress.DONE)
        for byte in range(start, end + 1) if not taken else ():
            model.pop((owner, byte), None)
            if kind != UNLOCK:
                model[owner, byte] = kind
    for owner in "abc":
        runs = sum(
            1 for (name, byte), kind in model.items() if name == owner and model.get((name, byte - 1)) != kind
        )
        assert table.count(owner) == runs


# ---------------------------------------------------------------------- on sessions


def test_a_waiting_request_is_answered_when_the_lock_is_free() -> None:
    cluster = Cluster()
    a, b = cluster.client("a"), cluster.client("b")
    a.ok(set_lock=op(WRITE))
    blocked = op(WRITE)
    assert b.call(set_lock=blocked).error == common.ERROR_CODE_WOULD_BLOCK
    blocked.wait = True
    seq = b.send(set_lock=blocked)
    assert seq not in b.replies
    a.ok(set_lock=op(UNLOCK))
    assert b.replies[seq].error == common.ERROR_CODE_OK


def test_cancelling_answers_the_waiting_request_first() -> None:
    cluster = Cluster()
    a, b = cluster.client("a"), cluster.client("b")
    a.ok(set_lock=op(WRITE))
    blocked = op(WRITE)
    blocked.wait = True
    seq = b.send(set_lock=blocked)
    b.ok(cancel_lock=pb.CancelLock(seq=seq))
    assert b.replies[seq].error == common.ERROR_CODE_INTERRUPTED
    assert list(b.replies)[-2:] == [seq, seq + 1]


def test_the_end_of_a_session_releases_its_locks() -> None:
    cluster = Cluster()
    a, b = cluster.client("a"), cluster.client("b")
    a.ok(set_lock=op(WRITE))
    blocked = op(WRITE, flock=False)
    blocked.wait = True
    seq = b.send(set_lock=blocked)
    a.message(goodbye=True)
    assert b.replies[seq].error == common.ERROR_CODE_OK


def test_locks_are_reclaimed_after_a_restart() -> None:
    cluster = Cluster()
    a, b = cluster.client("a"), cluster.client("b")
    a.ok(set_lock=op(WRITE))
    cluster.restart()
    b.connect(incarnation=1)
    seq = b.send(set_lock=op(WRITE))
    held = pb.HeldLock(ino=INO, owner=1, range=pb.LockRange(type=WRITE, end=9))
    a.connect(incarnation=1, locks=[held])
    assert b.replies[seq].error == common.ERROR_CODE_WOULD_BLOCK
    assert (
        a.ok(get_lock=pb.GetLock(ino=INO, owner=1, range=pb.LockRange(type=WRITE))).lock.conflict.type
        == UNLOCK
    )


def test_a_locked_range_sent_again_stays_locked_once() -> None:
    cluster = Cluster()
    a = cluster.client("a")
    seq = a.send(set_lock=op(WRITE))
    a.disconnect()
    a.connect()
    a.send(seq, set_lock=op(WRITE))
    (info,) = cluster.conductor.session_infos()
    assert info.locks == 1
