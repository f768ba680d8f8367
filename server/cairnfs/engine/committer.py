"""Group commit: one blocking thread runs everything that has queued up in a single durable commit."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat

from cairnfs.base.limits import GROUP_COMMIT_MAX_OPERATIONS
from cairnfs.base.logs import get_logger
from cairnfs.engine.interface import Engine, EngineError, Operation, Outcome

Done = Callable[[Outcome], None]
Deliver = Callable[[list[tuple[Done, Outcome]]], object]  # for example a call_soon_threadsafe

_log = get_logger(__name__)


class Committer:
    """Runs operations in the order of their submission, many per commit of `engine`.

    `deliver` is called in the committer's thread, once per commit, with every operation's `done` and its
    outcome in order of submission; it is to call them, or to carry them to another thread. What arrives
    during a commit shares the next one, so a commit is the larger the longer the storage takes.

    The engine stays the caller's: close the committer first.
    """

    def __init__(self, engine: Engine, deliver: Deliver) -> None:
        self._engine = engine
        self._deliver = deliver
        self._queue: deque[tuple[Operation, Done]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._closing = False
        self._failing = False  # a full disk fails every commit; one warning is enough
        # A daemon, so that a process which fails before close() still ends; commits are atomic anyway.
        self._thread = threading.Thread(target=self._run, name="cairnfs-committer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation, done: Done) -> None:
        """Queue `operation` from any thread; RuntimeError after close()."""
        with self._changed:
            if self._closing:
                raise RuntimeError("the committer is closed")
            self._queue.append((operation, done))
            if len(self._queue) == 1:
                self._changed.notify()

    def close(self) -> None:
        """Finish and deliver what is queued, then end the thread; blocks until then; idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            outcomes = self._commit([operation for operation, _ in batch])
            try:
                self._deliver([(done, outcome) for (_, done), outcome in zip(batch, outcomes, strict=True)])
            except Exception:  # noqa: BLE001 - a listener that has gone must not stop the others' commits
                _log.warning("commit_delivery_failed", operations=len(batch), exc_info=True)

    def _next_batch(self) -> list[tuple[Operation, Done]]:
        """What is queued, waiting until there is something; empty when closed and all is done."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            count = min(len(self._queue), GROUP_COMMIT_MAX_OPERATIONS)
            return [self._queue.popleft() for _ in range(count)]

    def _commit(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        try:
            outcomes = self._engine.commit(operations)
        except Exception as error:  # noqa: BLE001 - a caller must never wait for ever
            if not self._failing or not isinstance(error, EngineError):
                _log.warning("commit_failed", operations=len(operations), reason=str(error), exc_info=True)
            self._failing = True
            return list(repeat(Outcome(error=error), len(operations)))
        self._failing = False
        return outcomes
