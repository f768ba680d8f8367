"""A connection to PostgreSQL that is made when it is needed, and made again when it broke."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from cairnfs.base.limits import ENGINE_RETRY_MAX_S, ENGINE_RETRY_MIN_S, ENGINE_SILENCE_S
from cairnfs.base.logs import get_logger
from cairnfs.engine.interface import EngineError
from cairnfs.engine.postgres_address import Address
from cairnfs.engine.postgres_connection import Connection

_log = get_logger(__name__)


class Link:
    """At most one connection at a time. Not for several threads at a time."""

    def __init__(
        self,
        address: Address,
        statements: Mapping[bytes, bytes],
        prepare: Callable[[Connection], None] | None = None,
    ) -> None:
        self._address: Final = address
        self._statements: Final = statements
        self._prepare: Final = prepare
        self._connection: Connection | None = None

    def get(self, patience_s: float) -> Connection:
        """The connection; one attempt at a new one if there is none. Raises EngineError."""
        if self._connection is None:
            address = self._address
            made = Connection(address.conninfo, address.name, self._statements, patience_s)
            try:
                if self._prepare is not None:
                    self._prepare(made)
            except BaseException:
                made.close()
                raise
            self._connection = made
        return self._connection

    def drop(self) -> None:
        """Hang up; idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Retry:
    """The attempts at one piece of work, which all together may take `patience_s`."""

    def __init__(self, patience_s: float) -> None:
        self._deadline_s = time.monotonic() + patience_s
        self._pause_s = ENGINE_RETRY_MIN_S

    @property
    def left_s(self) -> float:
        """For the next attempt."""
        return max(0.0, min(self._deadline_s - time.monotonic(), ENGINE_SILENCE_S))

    def pause(self, error: EngineError) -> None:
        """Wait before another attempt; raises `error` when there is no time for one."""
        if time.monotonic() + self._pause_s >= self._deadline_s:
            raise error
        if self._pause_s == ENGINE_RETRY_MIN_S:
            _log.info("engine_connection_lost", reason=str(error))
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, ENGINE_RETRY_MAX_S)
