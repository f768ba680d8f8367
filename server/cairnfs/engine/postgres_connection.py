"""One connection to PostgreSQL: statements sent together, answered in one round trip, within a deadline.

It drives libpq itself (through psycopg's documented `pq` module) and not a psycopg cursor: libpq lets us
bound every wait, and values stay the bytes that they are.
"""

import contextlib
import select
import struct
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final

import psycopg
from psycopg import pq

from cairnfs.engine.interface import EngineError, EngineUnreachable

Row = tuple[bytes | None, ...]
Notice = Callable[[str], None]

_BYTEA_OID: Final = 17
_BINARY: Final = int(pq.Format.BINARY)
_PASSING: Final = ("57P01", "57P02", "57P03", "57P05", "53300", "25006", "25P03")


class ConnectionLost(EngineUnreachable):
    """The server cannot be reached, does not answer in time, or takes no work now; that may pass."""


class StatementFailed(EngineError):
    """The server refused a statement; `state` is its SQLSTATE."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


class Result:
    """What one statement came to."""

    __slots__ = ("count", "rows", "tag")

    def __init__(self, result: pq.abc.PGresult) -> None:
        self.tag = result.command_status or b""
        self.count = result.command_tuples or 0
        value, columns = result.get_value, range(result.nfields)
        self.rows: list[Row] = [
            tuple(value(row, column) for column in columns) for row in range(result.ntuples)
        ]


class Connection:
    """Connected to `conninfo`, with `statements` prepared by name. Not for several threads at a time.

    Raises ConnectionLost when that does not succeed within `patience_s`, StatementFailed when the server
    refuses. After ConnectionLost from any method, the connection is of no more use.
    """

    def __init__(
        self, conninfo: bytes, where: str, statements: Mapping[bytes, bytes], patience_s: float
    ) -> None:
        self._where = where
        self._sent = 0  # statements since the last sync
        self._unread: list[int] = []  # statements of each sync whose results nobody has read
        deadline_s = time.monotonic() + patience_s
        self._libpq = pq.PGconn.connect_start(conninfo)
        try:
            self._connect(deadline_s)
            self._libpq.enter_pipeline_mode()
            for name, text in statements.items():
                self._libpq.send_prepare(name, text)
                self._sent += 1
            self.sync(max(0.0, deadline_s - time.monotonic()))
        except BaseException:
            self.close()
            raise

    def on_warning(self, notice: Notice) -> None:
        """Have `notice` called with the text of every warning of the server."""

        def handle(result: pq.abc.PGresult) -> None:
            if result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"WARNING":
                notice(_text(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""))

        self._libpq.notice_handler = handle

    @property
    def process_id(self) -> int:
        """The server's process behind this connection."""
        return self._libpq.backend_pid

    def send(self, name: bytes, *parameters: bytes) -> None:
        """Queue a prepared statement with parameters in binary form."""
        with self._reporting():
            self._libpq.send_query_prepared(name, parameters, (_BINARY,) * len(parameters), _BINARY)
        self._sent += 1

    def send_text(self, statement: str, *parameters: bytes) -> None:
        """Queue a statement that is used once; results come in binary form."""
        with self._reporting():
            self._libpq.send_query_params(
                statement.encode(), parameters, None, (_BINARY,) * len(parameters), _BINARY
            )
        self._sent += 1

    def post(self) -> None:
        """Send what is queued, for results that nobody needs; does not wait for them."""
        with self._reporting():
            self._libpq.pipeline_sync()
            self._libpq.flush()
        self._unread.append(self._sent)
        self._sent = 0

    def sync(self, patience_s: float) -> list[Result]:
        """Send what is queued and wait for the results of all of it since the last sync, at most so long.

        Raises StatementFailed for the first statement that failed (those after it were not run), and
        ConnectionLost.
        """
        deadline_s = time.monotonic() + patience_s
        with self._reporting():
            self._libpq.pipeline_sync()
            count, self._sent = self._sent, 0
            self._flush(deadline_s)
            while self._unread:
                with contextlib.suppress(StatementFailed):
                    self._results(self._unread.pop(0), deadline_s)
            return self._results(count, deadline_s)

    def close(self) -> None:
        """Hang up; idempotent."""
        self._libpq.finish()

    # ------------------------------------------------------------------ libpq

    def _connect(self, deadline_s: float) -> None:
        libpq = self._libpq
        while True:
            if libpq.status == pq.ConnStatus.BAD:
                raise self._lost(libpq.get_error_message())
            state = libpq.connect_poll()
            if state == pq.PollingStatus.OK:
                libpq.nonblocking = 1
                return
            if state == pq.PollingStatus.FAILED:
                raise self._lost(libpq.get_error_message())
            self._wait(deadline_s, select.POLLOUT if state == pq.PollingStatus.WRITING else select.POLLIN)

    def _flush(self, deadline_s: float) -> None:
        while self._libpq.flush():
            if self._wait(deadline_s, select.POLLIN | select.POLLOUT) & select.POLLIN:
                self._libpq.consume_input()

    def _results(self, count: int, deadline_s: float) -> list[Result]:
        """The results of `count` statements and of the sync behind them."""
        found: list[Result] = []
        failure: StatementFailed | None = None
        while True:
            result = self._next(deadline_s)
            if result is None:
                if self._libpq.status == pq.ConnStatus.BAD:
                    raise self._lost(self._libpq.get_error_message())
                continue  # the end of one statement
            status = result.status
            if status == pq.ExecStatus.PIPELINE_SYNC:
                break
            if status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                found.append(Result(result))
            elif failure is None and status != pq.ExecStatus.PIPELINE_ABORTED:
                failure = self._failure(result)
            result.clear()
        if failure is not None:
            raise failure
        if len(found) != count:
            raise self._lost(f"{len(found)} results for {count} statements")
        return found

    def _next(self, deadline_s: float) -> pq.abc.PGresult | None:
        libpq = self._libpq
        while libpq.is_busy():
            self._wait(deadline_s, select.POLLIN)
            libpq.consume_input()
        return libpq.get_result()

    def _wait(self, deadline_s: float, events: int) -> int:
        left_s = deadline_s - time.monotonic()
        if left_s > 0.0:
            poll = select.poll()
            poll.register(self._libpq.socket, events)
            for _, ready in poll.poll(left_s * 1e3):
                return ready
        raise self._lost("no answer in time")

    def _failure(self, result: pq.abc.PGresult) -> StatementFailed:
        state = _text(result.error_field(pq.DiagnosticField.SQLSTATE) or b"")
        reason = _text(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"")
        if not state or state.startswith("08") or state in _PASSING:
            raise self._lost(reason or result.get_error_message())
        return StatementFailed(f"{self._where}: {reason} ({state})", state)

    def _lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(f"{self._where}: {' '.join(reason.split()) or 'the connection broke'}")

    @contextlib.contextmanager
    def _reporting(self) -> Generator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._lost(str(error)) from error


def bytea_array(items: Sequence[bytes]) -> bytes:
    """`items` as the parameter of a `bytea[]`; the form is that of array_recv (adt/arrayfuncs.c)."""
    if not items:
        return struct.pack(">iii", 0, 0, _BYTEA_OID)
    parts = [struct.pack(">iiiii", 1, 0, _BYTEA_OID, len(items), 1)]
    for item in items:
        parts.append(len(item).to_bytes(4, "big"))
        parts.append(item)
    return b"".join(parts)


def bigint(number: int) -> bytes:
    """`number` as the parameter of a `bigint`."""
    return number.to_bytes(8, "big", signed=True)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
