"""What every engine has for long work and for several coordinators: snapshots, and leadership."""

import threading
import time

from cairnfs.engine.interface import Engine, Operation, ReadTransaction, Transaction

Pairs = list[tuple[bytes, bytes]]


def put(engine: Engine, **pairs: bytes) -> None:
    def body(transaction: Transaction) -> None:
        for key, value in pairs.items():
            transaction.put(key.encode(), value)

    engine.commit([Operation(body)])


def everything(view: ReadTransaction) -> Pairs:
    return list(view.scan(b"", b"\xff"))


def stored(engine: Engine) -> Pairs:
    return engine.read(everything)


def test_a_snapshot_stays_as_it_is_beside_commits_and_reads(engine: Engine) -> None:
    put(engine, a=b"1", b=b"2")
    with engine.snapshot() as earlier:
        put(engine, a=b"3")
        with engine.snapshot() as later:
            engine.commit([Operation(lambda transaction: transaction.delete(b"b"))])
            assert everything(earlier) == [(b"a", b"1"), (b"b", b"2")]
            assert everything(later) == [(b"a", b"3"), (b"b", b"2")]
            assert stored(engine) == [(b"a", b"3")]
        put(engine, c=b"4")
        assert earlier.get_many([b"a", b"b", b"c"]) == {b"a": b"1", b"b": b"2", b"c": None}
    assert stored(engine) == [(b"a", b"3"), (b"c", b"4")]


def test_a_snapshot_is_read_by_another_thread(engine: Engine) -> None:
    put(engine, a=b"1")
    seen: list[Pairs] = []

    def look() -> None:
        with engine.snapshot() as view:
            seen.append(everything(view))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [[(b"a", b"1")]]


def test_who_leads_can_renew_and_commit(engine: Engine) -> None:
    assert engine.leads_until_s > time.monotonic()
    engine.renew_leadership()
    put(engine, a=b"1")
    assert stored(engine) == [(b"a", b"1")]
