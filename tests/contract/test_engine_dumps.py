"""Dumps out of every engine and into every engine; damaged ones, and loads that break off."""

import io
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from cairnfs.base.limits import DUMP_FRAME_BYTES, TRANSACTION_MAX_KEYS, VALUE_MAX_BYTES
from cairnfs.engine.dump import DumpDamaged, check, contents, dump, is_loading, load
from cairnfs.engine.dump_file import write_dump
from cairnfs.engine.interface import Engine, EngineError, Operation, Outcome, Transaction
from cairnfs.engine.memory import MemoryEngine

Pairs = list[tuple[bytes, bytes]]


def some_pairs() -> Pairs:
    """More than one frame and more than one transaction; the largest value, the empty one."""
    chance = random.Random(1)
    pairs = [
        (b"k%06d" % number, chance.randbytes(number % 600)) for number in range(2 * TRANSACTION_MAX_KEYS)
    ]
    return [(b"", b"empty key"), (b"a", b""), *pairs, (b"z\xff" * 100, b"x" * VALUE_MAX_BYTES)]


def fill(engine: Engine, pairs: Pairs) -> None:
    def body(part: Pairs) -> Operation:
        def put(transaction: Transaction) -> None:
            for key, value in part:
                transaction.put(key, value)

        return Operation(put)

    outcomes = engine.commit([body(pairs[at : at + 500]) for at in range(0, len(pairs), 500)])
    assert all(outcome.error is None for outcome in outcomes)


def stored(engine: Engine) -> Pairs:
    return engine.read(lambda view: list(view.scan(b"", b"\xff")))


def dumped(engine: Engine) -> bytes:
    with engine.snapshot() as view:
        return b"".join(dump(view))


def filled(pairs: Pairs) -> MemoryEngine:
    engine = MemoryEngine()
    fill(engine, pairs)
    return engine


def test_a_dump_moves_everything_to_another_engine_and_back(engine: Engine) -> None:
    pairs = some_pairs()
    first = dumped(filled(pairs))
    assert sum(len(key) + len(value) for key, value in pairs) > 2 * DUMP_FRAME_BYTES
    loaded = load(engine, io.BytesIO(first))
    assert loaded.pairs == len(pairs)
    assert stored(engine) == pairs
    assert dumped(engine) == first
    assert engine.read(contents) == check(io.BytesIO(first)) == loaded
    assert not engine.read(is_loading)


def test_an_empty_engine_can_be_dumped_and_loaded(engine: Engine) -> None:
    assert load(engine, io.BytesIO(dumped(engine))).pairs == 0
    assert stored(engine) == []


def test_an_engine_that_is_not_empty_is_left_alone(engine: Engine) -> None:
    fill(engine, [(b"mine", b"1")])
    with pytest.raises(ValueError, match="is not empty"):
        load(engine, io.BytesIO(dumped(filled([(b"other", b"2")]))))
    assert stored(engine) == [(b"mine", b"1")]
    assert not engine.read(is_loading)


def test_a_dump_is_of_one_moment(engine: Engine) -> None:
    pairs = some_pairs()
    fill(engine, pairs)
    with engine.snapshot() as view:
        pieces = dump(view)
        seen = [next(pieces), next(pieces)]
        fill(engine, [(key, b"changed") for key, _ in pairs])
        whole = b"".join([*seen, *pieces])
    copy = MemoryEngine()
    load(copy, io.BytesIO(whole))
    assert stored(copy) == pairs


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize("cut", [0, 5, 19, 25, -1, -41])
def test_a_dump_that_is_cut_off_changes_nothing(cut: int) -> None:
    engine = MemoryEngine()
    with pytest.raises(DumpDamaged):
        load(engine, io.BytesIO(dumped(filled(some_pairs()))[:cut]))
    assert stored(engine) == []
    assert not engine.read(is_loading)


def test_every_flipped_byte_of_a_dump_is_noticed() -> None:
    whole = dumped(filled([(b"key", b"value"), (b"other", b"value" * 20)]))
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        with pytest.raises(DumpDamaged):
            check(io.BytesIO(damaged))
    with pytest.raises(DumpDamaged, match="what its end says"):
        check(io.BytesIO(whole + b"x"))


@pytest.mark.parametrize(
    ("start", "problem"),
    [(b"cairnfs metadata 2\n", "another version"), (b"SQLite format 3\0...", "not a dump")],
)
def test_another_kind_of_file_is_named(start: bytes, problem: str) -> None:
    with pytest.raises(DumpDamaged, match=problem):
        check(io.BytesIO(start + bytes(100)))


# ---------------------------------------------------------------------- loads that break off


class Failing(MemoryEngine):
    """Fails at the commit that is counted down to, or keeps a wrong value."""

    def __init__(self) -> None:
        super().__init__()
        self.left = -1
        self.forging = False

    def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        self.left -= 1
        if self.left == 0:
            raise EngineError("disk full")
        outcomes = super().commit(operations)
        if self.forging:
            super().commit([Operation(lambda transaction: transaction.put(b"k000001", b"forged"))])
        return outcomes


def test_a_load_that_broke_off_is_seen_and_begins_anew() -> None:
    engine, whole = Failing(), dumped(filled(some_pairs()))
    engine.left = 3
    with pytest.raises(EngineError, match="disk full"):
        load(engine, io.BytesIO(whole))
    assert engine.read(is_loading)
    other = [(b"of another", b"dump")]
    load(engine, io.BytesIO(dumped(filled(other))))
    assert stored(engine) == other
    assert not engine.read(is_loading)


def test_a_load_that_did_not_store_what_it_should_is_noticed() -> None:
    engine = Failing()
    engine.forging = True
    with pytest.raises(EngineError, match="not those of the dump"):
        load(engine, io.BytesIO(dumped(filled(some_pairs()))))
    assert engine.read(is_loading)


# ---------------------------------------------------------------------- files


def test_a_dump_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    engine = filled(some_pairs())
    with engine.snapshot() as view:
        found = write_dump(path, dump(view))
    before = path.read_bytes()
    assert check(io.BytesIO(before)) == found
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DumpDamaged, match="cut off"):
        write_dump(path, [before[:1000]])
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["dump"]
