"""Group commit: order, sharing, delivery, errors and the end."""

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cairnfs.base.limits import GROUP_COMMIT_MAX_OPERATIONS
from cairnfs.engine.committer import Committer, Done
from cairnfs.engine.interface import EngineError, Operation, Outcome, Transaction
from cairnfs.engine.memory import MemoryEngine

Delivery = list[tuple[Done, Outcome]]


class GatedEngine(MemoryEngine):
    """A memory engine whose commits wait for `gate`, remembers their sizes, and fails once when told."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.failure: Exception | None = None

    def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        self.sizes.append(len(operations))
        self.entered.release()
        self.gate.acquire()
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return super().commit(operations)


class Recorder:
    """Collects deliveries and calls every `done`, in the committer's thread."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, delivery: Delivery) -> None:
        self.sizes.append(len(delivery))
        self.threads.add(threading.current_thread().name)
        for done, outcome in delivery:
            done(outcome)


@pytest.fixture
def engine() -> GatedEngine:
    return GatedEngine()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def committer(engine: GatedEngine, recorder: Recorder) -> Iterator[Committer]:
    made = Committer(engine, recorder)
    yield made
    engine.gate.release(1_000)
    made.close()


def returning(value: Any) -> Operation:
    return Operation(lambda _: value)


def answering(future: asyncio.Future[bytes]) -> Done:
    def done(outcome: Outcome) -> None:
        future.set_result(outcome.value)

    return done


def append(letter: bytes) -> Operation:
    def body(transaction: Transaction) -> bytes:
        value = (transaction.get(b"log") or b"") + letter
        transaction.put(b"log", value)
        return value

    return Operation(body)


def test_an_operation_gets_its_outcome(engine: GatedEngine, committer: Committer) -> None:
    outcomes: list[Outcome] = []
    engine.gate.release()
    committer.submit(returning(7), outcomes.append)
    committer.close()
    assert outcomes == [Outcome(7)]


def test_what_arrives_during_a_commit_shares_the_next(
    engine: GatedEngine, recorder: Recorder, committer: Committer
) -> None:
    outcomes: list[Outcome] = []
    committer.submit(append(b"a"), outcomes.append)
    assert engine.entered.acquire(timeout=60)
    for letter in (b"b", b"c", b"d"):
        committer.submit(append(letter), outcomes.append)
    engine.gate.release(2)
    committer.close()
    assert engine.sizes == recorder.sizes == [1, 3]
    assert [outcome.value for outcome in outcomes] == [b"a", b"ab", b"abc", b"abcd"]
    assert recorder.threads == {"cairnfs-committer"}


def test_a_commit_takes_so_many_operations_and_no_more(engine: GatedEngine, committer: Committer) -> None:
    values: list[int] = []
    committer.submit(returning(-1), lambda _: None)
    assert engine.entered.acquire(timeout=60)
    for number in range(2 * GROUP_COMMIT_MAX_OPERATIONS + 1):
        committer.submit(returning(number), lambda outcome: values.append(outcome.value))
    engine.gate.release(4)
    committer.close()
    assert engine.sizes == [1, GROUP_COMMIT_MAX_OPERATIONS, GROUP_COMMIT_MAX_OPERATIONS, 1]
    assert values == list(range(2 * GROUP_COMMIT_MAX_OPERATIONS + 1))


def test_an_operation_that_raises_does_not_disturb_its_group(
    engine: GatedEngine, committer: Committer
) -> None:
    outcomes: list[Outcome] = []
    committer.submit(returning(0), lambda _: None)
    assert engine.entered.acquire(timeout=60)

    def failing(_: Transaction) -> None:
        raise LookupError("no")

    committer.submit(returning(1), outcomes.append)
    committer.submit(Operation(failing), outcomes.append)
    committer.submit(returning(3), outcomes.append)
    engine.gate.release(2)
    committer.close()
    assert [outcome.value for outcome in outcomes] == [1, None, 3]
    assert isinstance(outcomes[1].error, LookupError)


@pytest.mark.announces_warnings("commit_failed")
@pytest.mark.parametrize("failure", [EngineError("disk full"), RuntimeError("a bug")])
def test_a_failed_commit_is_the_outcome_of_all_in_it_and_of_no_other(
    engine: GatedEngine, committer: Committer, failure: Exception
) -> None:
    outcomes: list[Outcome] = []
    engine.failure = failure
    committer.submit(append(b"a"), outcomes.append)
    assert engine.entered.acquire(timeout=60)
    committer.submit(append(b"b"), outcomes.append)
    committer.submit(append(b"c"), outcomes.append)
    engine.gate.release(2)
    committer.close()
    assert outcomes == [Outcome(error=failure), Outcome(b"b"), Outcome(b"bc")]


@pytest.mark.announces_warnings("commit_failed")
def test_a_full_disk_is_logged_once_until_it_has_room_again(caplog: pytest.LogCaptureFixture) -> None:
    class FullEngine(MemoryEngine):
        full = True

        def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
            if self.full:
                raise EngineError("disk full")
            return super().commit(operations)

    engine = FullEngine()
    committer = Committer(engine, Recorder())
    answers: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    for full, warnings in ((True, 1), (True, 1), (False, 1), (True, 2)):
        engine.full = full
        committer.submit(returning(1), answers.put)
        assert (answers.get(timeout=60).error is not None) == full
        assert sum("commit_failed" in record.getMessage() for record in caplog.records) == warnings
    committer.close()


def test_an_event_loop_is_woken_once_per_commit(engine: GatedEngine) -> None:
    crossings: list[int] = []

    async def submit_and_wait() -> list[bytes]:
        loop = asyncio.get_running_loop()

        def settle(delivery: Delivery) -> None:
            crossings.append(len(delivery))
            for done, outcome in delivery:
                done(outcome)

        committer = Committer(engine, lambda delivery: loop.call_soon_threadsafe(settle, delivery))
        futures: list[asyncio.Future[bytes]] = []
        for letter in (b"a", b"b", b"c"):
            futures.append(loop.create_future())
            committer.submit(append(letter), answering(futures[-1]))
            if letter == b"a":
                await asyncio.to_thread(engine.entered.acquire)
        engine.gate.release(2)
        values = await asyncio.gather(*futures)
        committer.close()
        return values

    assert asyncio.run(submit_and_wait()) == [b"a", b"ab", b"abc"]
    assert crossings == [1, 2]


@pytest.mark.announces_warnings("commit_delivery_failed")
def test_a_delivery_that_fails_does_not_stop_the_commits() -> None:
    engine = MemoryEngine()
    delivered: list[Outcome] = []

    def deliver(delivery: Delivery) -> None:
        for _, outcome in delivery:
            if outcome.value == b"a":
                raise RuntimeError("the event loop is closed")
            delivered.append(outcome)

    committer = Committer(engine, deliver)
    first = threading.Event()

    def body(transaction: Transaction) -> bytes:
        first.set()
        transaction.put(b"log", b"a")
        return b"a"

    committer.submit(Operation(body), lambda _: None)
    assert first.wait(timeout=60)
    committer.submit(append(b"b"), lambda _: None)
    committer.close()
    assert engine.read(lambda view: view.get(b"log")) == b"ab"


def test_closing_finishes_what_is_queued_and_then_refuses(engine: GatedEngine, committer: Committer) -> None:
    outcomes: list[Outcome] = []
    for letter in (b"a", b"b", b"c"):
        committer.submit(append(letter), outcomes.append)
    engine.gate.release(3)
    committer.close()
    committer.close()
    assert [outcome.value for outcome in outcomes] == [b"a", b"ab", b"abc"]
    with pytest.raises(RuntimeError, match="closed"):
        committer.submit(returning(1), outcomes.append)


def test_no_wake_up_is_lost_between_many_submitting_threads() -> None:
    engine = MemoryEngine()
    committer = Committer(engine, Recorder())
    threads, rounds = 4, 200

    def submits() -> None:
        for _ in range(rounds):
            answered: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
            committer.submit(append(b"x"), answered.put)
            assert answered.get(timeout=60).error is None

    workers = [threading.Thread(target=submits) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    committer.close()
    assert engine.read(lambda view: view.get(b"log")) == b"x" * threads * rounds


def test_submissions_of_one_thread_keep_their_order() -> None:
    engine = MemoryEngine()
    committer = Committer(engine, Recorder())
    values: list[int] = []
    for number in range(3_000):
        committer.submit(returning(number), lambda outcome: values.append(outcome.value))
    committer.close()
    assert values == list(range(3_000))
