"""Random operations on every engine, compared with a plain dict."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cairnfs.engine.interface import Engine, Operation, Outcome, ReadTransaction, Transaction
from cairnfs.engine.open import open_engine
from tests.postgres import PostgresServer

Pairs = list[tuple[bytes, bytes]]

# Few and short keys, so that operations meet each other's; every prefix relation occurs.
keys = st.binary(max_size=3).map(lambda key: bytes(byte & 0x83 for byte in key))
values = st.binary(max_size=4)
scans = st.tuples(keys, keys, st.none() | st.integers(0, 5), st.booleans())
steps = st.one_of(
    st.tuples(st.just("put"), keys, values),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("get"), keys),
    st.tuples(st.just("scan"), scans),
    st.tuples(st.just("fail")),
)
operations = st.lists(steps, max_size=8)


class Changeable(Protocol):
    """What a script of steps runs on: a transaction or the model."""

    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...


class Failure(Exception):
    """The step "fail"."""


class Model:
    """An ordered store as simple as it gets."""

    def __init__(self, pairs: dict[bytes, bytes]) -> None:
        self.pairs = pairs

    def get(self, key: bytes) -> bytes | None:
        return self.pairs.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.pairs[key] = value

    def delete(self, key: bytes) -> None:
        self.pairs.pop(key, None)

    def scan(self, start: bytes, end: bytes, limit: int | None, reverse: bool) -> Pairs:
        inside = sorted((pair for pair in self.pairs.items() if start <= pair[0] < end), reverse=reverse)
        return inside[:limit]


def scan_view(view: ReadTransaction) -> Callable[[bytes, bytes, int | None, bool], Pairs]:
    def scan(start: bytes, end: bytes, limit: int | None, reverse: bool) -> Pairs:
        return list(view.scan(start, end, limit=limit, reverse=reverse))

    return scan


def run_script(script: list[tuple[Any, ...]], store: Changeable, scan: Callable[..., Pairs]) -> list[Any]:
    """What `script` observes of `store`, which it changes; raises Failure."""
    seen: list[Any] = []
    for name, *arguments in script:
        match name:
            case "fail":
                raise Failure
            case "scan":
                seen.append(scan(*arguments[0]))
            case _:
                seen.append(getattr(store, name)(*arguments))
    return seen


class EngineMachine(RuleBasedStateMachine):
    """One engine beside the model."""

    make_address: Callable[[], str]  # what the settings call an engine that is empty

    def __init__(self) -> None:
        super().__init__()
        self.model = Model({})
        self.address = self.make_address()
        self.directory = tempfile.TemporaryDirectory()
        self.engine: Engine = self.open()

    def open(self) -> Engine:
        engine = open_engine(self.address, Path(self.directory.name))
        engine.acquire_leadership("test", 60.0)
        return engine

    def teardown(self) -> None:
        self.engine.close()
        self.directory.cleanup()

    @initialize(pairs=st.dictionaries(keys, values, max_size=20))
    def fill(self, pairs: dict[bytes, bytes]) -> None:
        self.commit([[("put", key, value) for key, value in pairs.items()]])

    @rule(batch=st.lists(operations, max_size=5))
    def commit(self, batch: list[list[tuple[Any, ...]]]) -> None:
        """Run a group commit; failed operations must leave nothing."""

        def operation(script: list[tuple[Any, ...]]) -> Operation:
            def body(transaction: Transaction) -> list[Any]:
                return run_script(script, transaction, scan_view(transaction))

            return Operation(body)

        outcomes = self.engine.commit([operation(script) for script in batch])
        for script, outcome in zip(batch, outcomes, strict=True):
            trial = Model(dict(self.model.pairs))
            try:
                expected = run_script(script, trial, trial.scan)
            except Failure:
                assert isinstance(outcome.error, Failure)
            else:
                self.model = trial
                assert outcome == Outcome(expected)

    @rule(bounds=scans, wanted=keys)
    def read(self, bounds: tuple[bytes, bytes, int | None, bool], wanted: bytes) -> None:
        """Look at the last commit."""
        seen = self.engine.read(lambda view: (scan_view(view)(*bounds), view.get(wanted)))
        assert seen == (self.model.scan(*bounds), self.model.get(wanted))

    @rule(batch=st.lists(operations, min_size=1, max_size=3), bounds=scans, wanted=keys)
    def commit_during_a_read(
        self,
        batch: list[list[tuple[Any, ...]]],
        bounds: tuple[bytes, bytes, int | None, bool],
        wanted: bytes,
    ) -> None:
        """A read that has begun does not see a commit made since."""
        before = Model(dict(self.model.pairs))

        def body(view: ReadTransaction) -> None:
            assert view.get(wanted) == before.get(wanted)
            self.commit(batch)
            assert scan_view(view)(*bounds) == before.scan(*bounds)
            assert view.get(wanted) == before.get(wanted)

        self.engine.read(body)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        """Nothing more, nothing less, in order."""
        assert self.engine.read(lambda view: list(view.scan(b"", b"\xff"))) == sorted(
            self.model.pairs.items()
        )


class ReopenedMachine(EngineMachine):
    """An engine that is closed and opened again now and then."""

    @rule()
    def reopen(self) -> None:
        """Everything is still there."""
        self.engine.close()
        self.engine = self.open()


def on(machine: type[EngineMachine], make_address: Callable[[], str]) -> type[EngineMachine]:
    """The machine with engines of such addresses."""
    return type(machine.__name__, (machine,), {"make_address": staticmethod(make_address)})


effort = settings(max_examples=40, stateful_step_count=15, deadline=None)


def test_the_sqlite_engine_does_what_the_model_does() -> None:
    run_state_machine_as_test(on(ReopenedMachine, lambda: "sqlite"), settings=effort)


def test_the_memory_engine_does_what_the_model_does() -> None:
    run_state_machine_as_test(on(EngineMachine, lambda: "memory"), settings=effort)


def test_the_postgresql_engine_does_what_the_model_does(postgres: PostgresServer) -> None:
    effort_there = settings(effort, max_examples=15)
    run_state_machine_as_test(on(ReopenedMachine, postgres.url), settings=effort_there)
