"""The contract of every metadata engine."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnfs.base.limits import (
    SCAN_PAGE_KEYS,
    TRANSACTION_MAX_BYTES,
    TRANSACTION_MAX_KEYS,
    VALUE_MAX_BYTES,
)
from cairnfs.engine.interface import Engine, EngineError, Operation, Outcome, ReadTransaction, Transaction
from cairnfs.engine.open import open_engine

Pairs = list[tuple[bytes, bytes]]
FIRST, LAST = b"", b"\xff" * 300


def run(engine: Engine, *bodies: Callable[[Transaction], Any]) -> list[Outcome]:
    return engine.commit([Operation(body) for body in bodies])


def put(engine: Engine, **pairs: bytes) -> None:
    def body(transaction: Transaction) -> None:
        for key, value in pairs.items():
            transaction.put(key.encode(), value)

    assert run(engine, body) == [Outcome()]


def everything(view: ReadTransaction) -> Pairs:
    return list(view.scan(FIRST, LAST))


def stored(engine: Engine) -> Pairs:
    return engine.read(everything)


class Refused(Exception):
    """Raised by a body that wants to be undone."""


# ---------------------------------------------------------------------- get, put, delete


def test_a_value_is_read_back(engine: Engine) -> None:
    put(engine, a=b"1")
    assert engine.read(lambda view: (view.get(b"a"), view.get(b"b"))) == (b"1", None)


def test_an_outcome_carries_the_value_of_its_body(engine: Engine) -> None:
    assert run(engine, lambda _: 7, lambda _: None) == [Outcome(7), Outcome()]


def test_an_empty_commit_is_fine(engine: Engine) -> None:
    assert engine.commit([]) == []


def test_empty_keys_and_values_are_kept(engine: Engine) -> None:
    run(engine, lambda transaction: transaction.put(b"", b""))
    assert stored(engine) == [(b"", b"")]
    assert engine.read(lambda view: view.get(b"")) == b""


def test_a_value_is_replaced_and_removed(engine: Engine) -> None:
    put(engine, a=b"1", b=b"2")
    put(engine, a=b"3")
    assert stored(engine) == [(b"a", b"3"), (b"b", b"2")]
    run(engine, lambda transaction: transaction.delete(b"a"))
    assert stored(engine) == [(b"b", b"2")]


def test_removing_an_absent_key_is_fine(engine: Engine) -> None:
    assert run(engine, lambda transaction: transaction.delete(b"a")) == [Outcome()]
    assert stored(engine) == []


def test_an_operation_sees_its_own_changes(engine: Engine) -> None:
    put(engine, a=b"1", b=b"2")

    def body(transaction: Transaction) -> list[bytes | None]:
        transaction.put(b"a", b"new")
        transaction.delete(b"b")
        transaction.put(b"c", b"x")
        transaction.delete(b"c")
        return [transaction.get(key) for key in (b"a", b"b", b"c", b"d")]

    assert run(engine, body) == [Outcome([b"new", None, None, None])]
    assert stored(engine) == [(b"a", b"new")]


# ---------------------------------------------------------------------- order and scans


def test_keys_are_ordered_as_bytes_are(engine: Engine) -> None:
    keys = [
        b"",
        b"\0",
        b"\0\0",
        b"\0\xff",
        b"a",
        b"a\0",
        b"a\0b",
        b"aa",
        b"b",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xff\0",
    ]

    def body(transaction: Transaction) -> None:
        for key in reversed(keys):
            transaction.put(key, b"v" + key)

    run(engine, body)
    assert [key for key, _ in stored(engine)] == sorted(keys)
    assert stored(engine) == [(key, b"v" + key) for key in sorted(keys)]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (b"a", b"z", b"bdf"),
        (b"b", b"f", b"bd"),
        (b"c", b"e", b"d"),
        (b"d", b"d\0", b"d"),
        (b"d", b"d", b""),
        (b"f", b"b", b""),
        (b"g", b"z", b""),
        (b"", b"", b""),
    ],
)
def test_scan_bounds(engine: Engine, start: bytes, end: bytes, expected: bytes) -> None:
    put(engine, b=b"1", d=b"2", f=b"3")
    keys = engine.read(lambda view: b"".join(key for key, _ in view.scan(start, end)))
    assert keys == expected
    reverse = engine.read(lambda view: b"".join(key for key, _ in view.scan(start, end, reverse=True)))
    assert reverse == expected[::-1]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4])
def test_scan_limit(engine: Engine, limit: int) -> None:
    put(engine, a=b"1", b=b"2", c=b"3")
    pairs = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert engine.read(lambda view: list(view.scan(b"a", b"z", limit=limit))) == pairs[:limit]
    backwards = engine.read(lambda view: list(view.scan(b"a", b"z", limit=limit, reverse=True)))
    assert backwards == pairs[::-1][:limit]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [None, 1, SCAN_PAGE_KEYS, SCAN_PAGE_KEYS + 1, 10 * SCAN_PAGE_KEYS])
def test_scans_longer_than_a_page(engine: Engine, limit: int | None, reverse: bool) -> None:
    pairs = [(b"%06d" % number, b"v%d" % number) for number in range(2 * SCAN_PAGE_KEYS)]

    def body(transaction: Transaction) -> None:
        for key, value in pairs:
            transaction.put(key, value)

    run(engine, body)
    expected = (pairs[::-1] if reverse else pairs)[:limit]
    assert engine.read(lambda view: list(view.scan(b"0", b"1", limit=limit, reverse=reverse))) == expected
    [inside] = run(
        engine, lambda transaction: list(transaction.scan(b"0", b"1", limit=limit, reverse=reverse))
    )
    assert inside.value == expected


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [None, 0, 1, 2, 3, 9])
def test_a_scan_merges_pending_changes(engine: Engine, limit: int | None, reverse: bool) -> None:
    put(engine, b=b"old", c=b"old", d=b"old", f=b"old")

    def earlier(transaction: Transaction) -> None:
        transaction.put(b"a", b"earlier")
        transaction.delete(b"b")
        transaction.put(b"e", b"earlier")
        transaction.put(b"f", b"earlier")

    def body(transaction: Transaction) -> Pairs:
        transaction.delete(b"d")
        transaction.delete(b"e")
        transaction.put(b"b", b"own")
        transaction.put(b"g", b"own")
        return list(transaction.scan(b"a", b"z", limit=limit, reverse=reverse))

    expected = [(b"a", b"earlier"), (b"b", b"own"), (b"c", b"old"), (b"f", b"earlier"), (b"g", b"own")]
    outcomes = run(engine, earlier, body)
    assert outcomes[1].value == (expected[::-1] if reverse else expected)[:limit]
    assert stored(engine) == expected


def test_a_limited_scan_looks_past_deleted_keys(engine: Engine) -> None:
    put(engine, a=b"1", b=b"2", c=b"3")

    def body(transaction: Transaction) -> Pairs:
        transaction.delete(b"a")
        transaction.delete(b"b")
        return list(transaction.scan(b"a", b"z", limit=1))

    assert run(engine, body) == [Outcome([(b"c", b"3")])]


def test_a_scan_is_not_disturbed_by_the_changes_of_its_loop(engine: Engine) -> None:
    put(engine, a=b"1", b=b"2", c=b"3")

    def body(transaction: Transaction) -> list[bytes]:
        transaction.put(b"d", b"4")
        seen: list[bytes] = []
        for key, _ in transaction.scan(b"a", b"z"):
            seen.append(key)
            transaction.delete(key)
            transaction.put(b"y" + key, b"new")
        return seen

    assert run(engine, body)[0].value == [b"a", b"b", b"c", b"d"]
    assert [key for key, _ in stored(engine)] == [b"ya", b"yb", b"yc", b"yd"]


def test_a_scan_that_is_given_up_leaves_nothing_open(engine: Engine) -> None:
    kept: list[Iterator[tuple[bytes, bytes]]] = []

    def body(view: ReadTransaction) -> tuple[bytes, bytes]:
        kept.append(view.scan(b"a", b"z"))
        return next(kept[-1])

    put(engine, a=b"1", b=b"2")
    assert engine.read(body) == (b"a", b"1")
    put(engine, a=b"3")
    assert engine.read(body) == (b"a", b"3")


# ---------------------------------------------------------------------- atomicity and isolation


def test_a_failed_operation_leaves_nothing_and_disturbs_nobody(engine: Engine) -> None:
    put(engine, a=b"1")

    def failing(transaction: Transaction) -> None:
        transaction.put(b"a", b"bad")
        transaction.put(b"b", b"bad")
        transaction.delete(b"c")
        raise Refused

    outcomes = run(
        engine,
        lambda transaction: transaction.put(b"c", b"2"),
        failing,
        lambda transaction: (transaction.get(b"a"), transaction.get(b"b"), transaction.get(b"c")),
    )
    assert outcomes[0] == Outcome()
    assert isinstance(outcomes[1].error, Refused)
    assert outcomes[2] == Outcome((b"1", None, b"2"))
    assert stored(engine) == [(b"a", b"1"), (b"c", b"2")]


def test_later_operations_of_a_commit_see_earlier_ones(engine: Engine) -> None:
    def count(transaction: Transaction) -> int:
        value = int(transaction.get(b"n") or b"0") + 1
        transaction.put(b"n", b"%d" % value)
        return value

    assert [outcome.value for outcome in run(engine, *[count] * 5)] == [1, 2, 3, 4, 5]
    assert [outcome.value for outcome in run(engine, *[count] * 2)] == [6, 7]
    assert stored(engine) == [(b"n", b"7")]


def test_an_engine_error_in_a_body_commits_nothing(engine: Engine) -> None:
    put(engine, a=b"1")

    def failing(_: Transaction) -> None:
        raise EngineError("the storage went away")

    with pytest.raises(EngineError, match="went away"):
        run(engine, lambda transaction: transaction.put(b"a", b"2"), failing)
    assert stored(engine) == [(b"a", b"1")]
    put(engine, a=b"3")
    assert stored(engine) == [(b"a", b"3")]


def test_a_read_reports_the_error_of_its_body_and_the_next_one_works(engine: Engine) -> None:
    def failing(view: ReadTransaction) -> None:
        for _ in view.scan(FIRST, LAST):
            raise Refused

    put(engine, a=b"1", b=b"2")
    with pytest.raises(Refused):
        engine.read(failing)
    put(engine, a=b"3")
    assert stored(engine) == [(b"a", b"3"), (b"b", b"2")]


# ---------------------------------------------------------------------- limits


def test_the_largest_value_is_taken_and_a_larger_one_refused(engine: Engine) -> None:
    largest = b"x" * VALUE_MAX_BYTES
    put(engine, a=largest)
    [refused] = run(engine, lambda transaction: transaction.put(b"b", largest + b"x"))
    assert isinstance(refused.error, ValueError)
    assert stored(engine) == [(b"a", largest)]


def test_an_operation_changes_so_many_keys_and_no_more(engine: Engine) -> None:
    def body(count: int) -> Callable[[Transaction], None]:
        def change(transaction: Transaction) -> None:
            for number in range(count):
                transaction.put(b"%d" % number, b"")
            transaction.delete(b"0")  # one that is changed already

        return change

    outcomes = run(engine, body(TRANSACTION_MAX_KEYS), body(TRANSACTION_MAX_KEYS + 1))
    assert outcomes[0] == Outcome()
    assert isinstance(outcomes[1].error, ValueError)
    assert len(stored(engine)) == TRANSACTION_MAX_KEYS - 1


def test_an_operation_changes_so_many_bytes_and_no_more(engine: Engine) -> None:
    size = VALUE_MAX_BYTES
    count = TRANSACTION_MAX_BYTES // size

    def fill(transaction: Transaction) -> None:
        for number in range(count - 1):
            transaction.put(b"%03d" % number, b"x" * size)

    def exactly(transaction: Transaction) -> None:
        fill(transaction)
        transaction.put(b"000", b"")  # room for another, but not for the keys
        transaction.put(b"last", b"x" * size)
        transaction.put(b"000", b"x" * (size - 3 * (count - 1) - len(b"last")))

    def one_more(transaction: Transaction) -> None:
        exactly(transaction)
        transaction.put(b"z", b"")

    outcomes = run(engine, exactly, one_more)
    assert outcomes[0] == Outcome()
    assert isinstance(outcomes[1].error, ValueError)
    assert sum(len(key) + len(value) for key, value in stored(engine)) == TRANSACTION_MAX_BYTES


def test_a_body_may_live_with_a_refused_change(engine: Engine) -> None:
    def body(transaction: Transaction) -> bytes | None:
        transaction.put(b"a", b"1")
        with pytest.raises(ValueError, match="larger"):
            transaction.put(b"a", b"x" * (VALUE_MAX_BYTES + 1))
        return transaction.get(b"a")

    assert run(engine, body) == [Outcome(b"1")]
    assert stored(engine) == [(b"a", b"1")]


def test_the_limits_are_of_an_operation_and_not_of_a_commit(engine: Engine) -> None:
    def body(part: int) -> Callable[[Transaction], None]:
        def change(transaction: Transaction) -> None:
            for number in range(TRANSACTION_MAX_KEYS):
                transaction.put(b"%d/%d" % (part, number), b"")

        return change

    assert run(engine, *map(body, range(3))) == [Outcome()] * 3
    assert len(stored(engine)) == 3 * TRANSACTION_MAX_KEYS


# ---------------------------------------------------------------------- reads beside commits


def commit_in_another_thread(engine: Engine, *bodies: Callable[[Transaction], Any]) -> None:
    thread = threading.Thread(target=run, args=(engine, *bodies))
    thread.start()
    thread.join()


def test_a_read_keeps_its_snapshot_while_another_thread_commits(engine: Engine) -> None:
    put(engine, a=b"1", b=b"2", d=b"4")
    before = stored(engine)

    def change(transaction: Transaction) -> None:
        transaction.put(b"a", b"new")
        transaction.delete(b"b")
        transaction.put(b"c", b"new")

    def again(transaction: Transaction) -> None:
        transaction.put(b"a", b"newer")
        transaction.put(b"b", b"newer")

    def body(view: ReadTransaction) -> None:
        assert view.get(b"a") == b"1"  # some engines take their snapshot here
        commit_in_another_thread(engine, change)
        assert everything(view) == before
        commit_in_another_thread(engine, again)
        assert everything(view) == before
        assert list(view.scan(b"a", b"z", reverse=True, limit=2)) == before[::-1][:2]
        assert [view.get(key) for key in (b"a", b"b", b"c", b"d")] == [b"1", b"2", None, b"4"]

    engine.read(body)
    assert stored(engine) == [(b"a", b"newer"), (b"b", b"newer"), (b"c", b"new"), (b"d", b"4")]


def test_a_started_scan_keeps_its_snapshot_over_pages(engine: Engine) -> None:
    count = 3 * SCAN_PAGE_KEYS

    def fill(value: bytes) -> Callable[[Transaction], None]:
        def body(transaction: Transaction) -> None:
            for number in range(count):
                transaction.put(b"%06d" % number, value)

        return body

    run(engine, fill(b"old"))

    def body(view: ReadTransaction) -> None:
        scan = view.scan(b"0", b"1")
        assert next(scan) == (b"000000", b"old")
        commit_in_another_thread(engine, fill(b"new"))
        assert {value for _, value in scan} == {b"old"}

    engine.read(body)
    assert {value for _, value in stored(engine)} == {b"new"}


def test_reads_see_whole_commits_while_another_thread_makes_many(engine: Engine) -> None:
    rounds = 100
    finished = threading.Event()

    def move(number: int) -> Callable[[Transaction], None]:
        def body(transaction: Transaction) -> None:
            transaction.delete(b"at/%d" % (number - 1))
            transaction.put(b"at/%d" % number, b"")
            transaction.put(b"count", b"%d" % number)

        return body

    def commits() -> None:
        for number in range(1, rounds + 1):
            run(engine, move(number))
        finished.set()

    def body(view: ReadTransaction) -> int:
        number = int(view.get(b"count") or b"0")
        assert [key for key, _ in view.scan(b"at/", b"at0")] == [b"at/%d" % number]
        return number

    run(engine, move(0))
    thread = threading.Thread(target=commits)
    thread.start()
    seen = [0]
    while not finished.is_set():
        seen.append(engine.read(body))
    thread.join()
    seen.append(engine.read(body))
    assert seen == sorted(seen)
    assert seen[-1] == rounds


# ---------------------------------------------------------------------- closing


def test_a_closed_engine_refuses_and_closing_again_is_fine(engine: Engine) -> None:
    put(engine, a=b"1")
    stored(engine)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.read(everything)
    with pytest.raises(EngineError, match="closed"):
        run(engine, lambda transaction: transaction.put(b"a", b"2"))
    with pytest.raises(EngineError, match="closed"), engine.snapshot():
        pass
    with pytest.raises(EngineError, match="closed"):
        engine.acquire_leadership("test", 1.0)


def test_an_unknown_engine_is_named_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'oracle' is not one of sqlite, memory, postgresql"):
        open_engine("oracle", tmp_path)
