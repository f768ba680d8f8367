"""Transactions within transactions: a part of an operation that is made as a whole or not at all."""

from typing import Any

import pytest

from cairnfs.base.limits import TRANSACTION_MAX_BYTES, TRANSACTION_MAX_KEYS, VALUE_MAX_BYTES
from cairnfs.engine.interface import Engine, NestedTransaction, Operation, Transaction


def commit(engine: Engine, body: Any) -> Any:
    [outcome] = engine.commit([Operation(body)])
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def everything(engine: Engine) -> dict[bytes, bytes]:
    return dict(engine.read(lambda view: list(view.scan(b"", b"\xff"))))


def join(nested: NestedTransaction) -> bool:
    return nested.join(spare_keys=0, spare_bytes=0)


def test_a_nested_transaction_sees_the_one_below_and_itself(engine: Engine) -> None:
    def body(txn: Transaction) -> None:
        txn.put(b"a", b"1")
        nested = txn.nest()
        nested.put(b"b", b"2")
        nested.put(b"a", b"3")
        assert (nested.get(b"a"), txn.get(b"a"), txn.get(b"b")) == (b"3", b"1", None)
        assert list(nested.scan(b"", b"\xff")) == [(b"a", b"3"), (b"b", b"2")]

    commit(engine, body)
    assert everything(engine) == {b"a": b"1"}


def test_what_joins_is_committed(engine: Engine) -> None:
    def body(txn: Transaction) -> None:
        txn.put(b"a", b"1")
        txn.put(b"c", b"1")
        nested = txn.nest()
        nested.put(b"a", b"2")
        nested.put(b"b", b"2")
        nested.delete(b"c")
        assert join(nested)
        assert txn.get(b"a") == b"2"
        txn.put(b"b", b"3")

    commit(engine, body)
    assert everything(engine) == {b"a": b"2", b"b": b"3"}


def test_one_after_another_sees_what_has_joined(engine: Engine) -> None:
    def body(txn: Transaction) -> None:
        for number in range(3):
            nested = txn.nest()
            seen = [value for _, value in nested.scan(b"", b"\xff")]
            assert seen == [b"%d" % earlier for earlier in range(number) if earlier != 1]
            nested.put(b"key%d" % number, b"%d" % number)
            if number != 1:
                assert join(nested)

    commit(engine, body)
    assert sorted(everything(engine)) == [b"key0", b"key2"]


def test_what_would_have_too_many_keys_does_not_join(engine: Engine) -> None:
    def body(txn: Transaction) -> None:
        for number in range(TRANSACTION_MAX_KEYS - 2):
            txn.put(b"%d" % number, b"")
        nested = txn.nest()
        nested.put(b"0", b"again")
        nested.put(b"x", b"")
        assert not nested.join(spare_keys=2, spare_bytes=0)
        assert (txn.get(b"0"), txn.get(b"x")) == (b"", None)
        assert nested.join(spare_keys=1, spare_bytes=0)
        txn.put(b"y", b"")
        with pytest.raises(ValueError, match="keys"):
            txn.put(b"z", b"")

    commit(engine, body)
    assert len(everything(engine)) == TRANSACTION_MAX_KEYS


def test_what_would_have_too_many_bytes_does_not_join(engine: Engine) -> None:
    value = bytes(VALUE_MAX_BYTES)

    def body(txn: Transaction) -> int:
        joined = 0
        while True:
            nested = txn.nest()
            nested.put(b"%04d" % joined, value)
            if not nested.join(spare_keys=1, spare_bytes=len(value) + 4):
                break
            joined += 1
        txn.put(b"last", value)
        # Smaller values make room again.
        nested = txn.nest()
        nested.put(b"0000", b"")
        assert join(nested)
        txn.put(b"more", bytes(VALUE_MAX_BYTES // 2))
        return joined

    assert commit(engine, body) == TRANSACTION_MAX_BYTES // (VALUE_MAX_BYTES + 4) - 1


def test_a_nested_transaction_keeps_to_the_limits_itself(engine: Engine) -> None:
    def body(txn: Transaction) -> None:
        nested = txn.nest()
        with pytest.raises(ValueError, match="value"):
            nested.put(b"a", bytes(VALUE_MAX_BYTES + 1))

    commit(engine, body)
