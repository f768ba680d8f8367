"""The metadata store as coroutines see it: snapshots at once, commits in the next group."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from cairnfs.engine.committer import Committer
from cairnfs.engine.interface import Engine, Operation, Outcome, ReadTransaction, T


class MetadataStore:
    """Reads and commits for asyncio code; use it on the event loop's thread only."""

    def __init__(self, engine: Engine, committer: Committer, loop: asyncio.AbstractEventLoop) -> None:
        """The committer must deliver its outcomes on `loop`."""
        self._engine = engine
        self._committer = committer
        self._loop = loop

    def read(self, body: Callable[[ReadTransaction], T]) -> T:
        """Run `body` on a snapshot of the last commit. Raises what it raises, and EngineError."""
        return self._engine.read(body)

    def snapshot(self) -> AbstractContextManager[ReadTransaction]:
        """The last commit, to be read for as long as it takes."""
        return self._engine.snapshot()

    async def commit(self, operation: Operation) -> Any:
        """The value of `operation`, once it is durable. Raises what it raised, and EngineError."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(outcome: Outcome) -> None:
            if future.cancelled():
                return
            if outcome.error is not None:
                future.set_exception(outcome.error)
            else:
                future.set_result(outcome.value)

        self._committer.submit(operation, done)
        return await future
