"""The engine on PostgreSQL: one table of pairs, one row that says who leads; two round trips per commit.

Why it is as it is, and how it compares: docs/decisions/0015-postgresql.md.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Final, cast

from cairnfs.base import limits
from cairnfs.base.logs import get_logger
from cairnfs.engine import postgres_tables as tables
from cairnfs.engine.buffered import Changes, Pair, Prefetched, run_operations, scan_pages
from cairnfs.engine.interface import (
    EngineBroken,
    EngineDeposed,
    EngineError,
    Operation,
    Outcome,
    ReadTransaction,
    T,
)
from cairnfs.engine.postgres_address import Address
from cairnfs.engine.postgres_connection import (
    Connection,
    ConnectionLost,
    Result,
    StatementFailed,
    bigint,
    bytea_array,
)
from cairnfs.engine.postgres_leader import Leadership
from cairnfs.engine.postgres_link import Link, Retry

_LONG_READ_TIMEOUT: Final = "SET LOCAL idle_in_transaction_session_timeout = '300s'"

_log = get_logger(__name__)


class PostgresEngine:
    """An engine in the schema `address.schema` of a database, whose tables are made when missing.

    `closed` is called at the end of close(). Raises EngineError when the server cannot be reached or must not
    be used.
    """

    def __init__(self, address: Address, closed: Callable[[], None] = lambda: None) -> None:
        self.schema: Final = address.schema
        self._name = address.name
        self._address = address
        self._statements = tables.Statements(address.schema)
        tables.prepare_server(address, self._statements)
        self._warnings: list[str] = []
        self._writer = Link(address, self._statements.writing, self._prepare_writer)
        self._reader = Link(address, self._statements.reading)
        self._leadership = Leadership(Link(address, self._statements.keeping), self._name)
        self._read_lock = threading.Lock()
        self._broken: EngineBroken | None = None
        self._on_closed = closed
        self._closed = False

    # ------------------------------------------------------------------ leadership

    @property
    def leads_until_s(self) -> float:
        """When the term ends, as time.monotonic() tells it: nobody else leads before that."""
        return self._leadership.until_s

    def acquire_leadership(self, owner: str, term_s: float) -> int:
        """Become the leader for `term_s` seconds; returns the epoch, greater than that of any other leader.

        Whoever leads under the same `owner` is deposed at once: it must be known to be dead. Raises
        EngineLocked while another owner leads, and EngineError.
        """
        self._check_usable()
        return self._leadership.acquire(owner, term_s)

    def renew_leadership(self) -> None:
        """Lead for another term from now; from any thread. Raises EngineDeposed, and EngineError."""
        self._check_usable()
        self._leadership.renew()

    # ------------------------------------------------------------------ reading

    def read(self, body: Callable[[ReadTransaction], T]) -> T:
        """Run `body` on a snapshot of the last commit; called from one thread only, never blocks long."""
        with self._read_lock:
            if self._closed:
                raise EngineError(f"{self._name} is closed")
            view = _SnapshotView(self._reader)
            try:
                return body(view)
            finally:
                view.end()

    @contextlib.contextmanager
    def snapshot(self) -> Generator[ReadTransaction]:
        """The last commit, to be read for as long as it takes, in any one thread, beside everything else."""
        if self._closed:
            raise EngineError(f"{self._name} is closed")
        connection = Connection(
            self._address.conninfo, self._name, self._statements.reading, limits.ENGINE_SILENCE_S
        )
        try:
            connection.send(tables.BEGIN_SNAPSHOT)
            connection.send_text(_LONG_READ_TIMEOUT)
            view = _View(connection)
            view.get(b"")  # the transaction has its snapshot from its first look
            yield view
        finally:
            connection.close()

    # ------------------------------------------------------------------ committing

    def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Run `operations` in order and make all their changes durable together.

        Raises EngineError when nothing was committed, EngineBroken when that is not known, and EngineDeposed
        when another leads.
        """
        self._check_usable()
        epoch = self._leadership.epoch
        if not epoch:
            raise EngineError(f"{self._name}: only the leader commits, and leadership was not acquired")
        retry = Retry(limits.ENGINE_COMMIT_S)
        while True:
            try:
                return self._attempt(operations, epoch, retry)
            except ConnectionLost as lost:  # nothing was committed
                self._writer.drop()
                retry.pause(lost)
            except EngineBroken as error:
                self._broken = error
                if not isinstance(error, EngineDeposed):  # which is ordinary, where several take turns
                    _log.error("engine_broken", engine=self._name, reason=str(error))
                raise

    def _attempt(self, operations: Sequence[Operation], epoch: int, retry: Retry) -> list[Outcome]:
        connection = self._writer.get(retry.left_s)
        started_s = time.monotonic()
        hints = sorted({key for operation in operations for key in operation.prefetch})
        connection.send(tables.BEGIN)
        connection.send(tables.LEAD, bigint(epoch))
        if hints:
            connection.send(tables.GET_MANY, bytea_array(hints))
        with self._undone_on_failure(connection):
            results = connection.sync(retry.left_s)
            if not results[1].rows:
                raise self._leadership.deposed()
            number = _number(results[1])
            known: dict[bytes, bytes | None] = dict.fromkeys(hints)
            known.update(cast("list[Pair]", results[2].rows if hints else ()))
            outcomes, changes = run_operations(Prefetched(_View(connection), known), operations)
        if not changes:
            _undo(connection)
            return outcomes
        self._store(connection, changes, number, retry)
        self._leadership.shown(started_s)
        return outcomes

    def _store(self, connection: Connection, changes: Changes, number: int, retry: Retry) -> None:
        """Write `changes` and commit, all sent at once. Raises ConnectionLost when nothing was committed."""
        puts = 0
        for keys, values in _portions(changes):
            connection.send(tables.PUT, bytea_array(keys), bytea_array(values))
            puts += 1
        deletes = [key for key, value in sorted(changes.items()) if value is None]
        if deletes:
            connection.send(tables.DELETE, bytea_array(deletes))
        connection.send(tables.COMMIT)
        self._warnings.clear()
        try:
            with self._undone_on_failure(connection):
                results = connection.sync(retry.left_s)
        except ConnectionLost as lost:
            self._writer.drop()
            if not self._was_committed(number, retry):
                raise ConnectionLost(f"{lost}; nothing was committed") from lost
            return
        stored = sum(result.count for result in results[:puts])
        if results[-1].tag != b"COMMIT" or stored != len(changes) - len(deletes) or self._warnings:
            # A commit that was not replicated is only warned of; a trigger may have kept rows out.
            reason = "; ".join(self._warnings) or f"{stored} rows stored of {len(changes) - len(deletes)}"
            raise EngineBroken(f"{self._name}: a commit did not do what it must: {reason}")

    def _was_committed(self, number: int, retry: Retry) -> bool:
        """Whether commit `number` happened, whose answer was lost. Raises EngineBroken when it stays unknown.

        Asked by a commit of its own: it waits for the row that the lost one holds until that has ended, and
        what it acknowledges is replicated includes all before it.
        """
        epoch = self._leadership.epoch
        while True:
            try:
                connection = self._writer.get(retry.left_s)
                connection.send(tables.BEGIN)
                connection.send(tables.CONFIRM, bigint(epoch))
                connection.send(tables.COMMIT)
                confirmed = connection.sync(retry.left_s)[1]
                break
            except (ConnectionLost, StatementFailed) as error:
                self._writer.drop()
                try:
                    retry.pause(error)
                except EngineError:
                    raise EngineBroken(f"{error}; restart to find out what is stored") from error
        if not confirmed.rows:
            raise self._leadership.deposed()
        found = _number(confirmed)
        if found not in (number - 1, number):
            raise EngineBroken(f"{self._name}: commit {number} was sent, and {found} is the last one")
        _log.info("engine_commit_resolved", engine=self._name, committed=found == number)
        return found == number

    @contextlib.contextmanager
    def _undone_on_failure(self, connection: Connection) -> Generator[None]:
        try:
            yield
        except ConnectionLost:
            raise
        except BaseException:
            with contextlib.suppress(ConnectionLost):
                _undo(connection)
            raise

    def _prepare_writer(self, connection: Connection) -> None:
        tables.assure_synchronous(connection)
        connection.on_warning(self._warnings.append)

    def _check_usable(self) -> None:
        if self._closed:
            raise EngineError(f"{self._name} is closed")
        if self._broken is not None:
            raise type(self._broken)(str(self._broken))

    def close(self) -> None:
        """Give up leadership, so that another can have it at once, and hang up; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._leadership.resign()
        with self._read_lock:
            self._reader.drop()
        self._writer.drop()
        self._on_closed()


class _View:
    """What one connection sees."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, key: bytes) -> bytes | None:
        rows = self._ask(tables.GET, key)
        return rows[0][0] if rows else None

    def get_many(self, wanted: Iterable[bytes]) -> dict[bytes, bytes | None]:
        keys = sorted(wanted)
        found: dict[bytes, bytes | None] = dict.fromkeys(keys)
        if keys:
            found.update(cast("list[Pair]", self._ask(tables.GET_MANY, bytea_array(keys))))
        return found

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Pair]:
        return scan_pages(self._page, start, end, limit, reverse)

    def _page(self, start: bytes, end: bytes, count: int, reverse: bool) -> list[Pair]:
        name = tables.SCAN_REVERSE if reverse else tables.SCAN
        return cast("list[Pair]", self._ask(name, start, end, bigint(count)))

    def _ask(self, name: bytes, *parameters: bytes) -> list[tuple[bytes | None, ...]]:
        self._connection.send(name, *parameters)
        return self._connection.sync(limits.ENGINE_READ_S)[-1].rows


class _SnapshotView(_View):
    """A snapshot that begins with the first question, in the same round trip, and reconnects for it."""

    __slots__ = ("_begun", "_link")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._begun = False

    def end(self) -> None:
        """Let the server forget the snapshot; does not wait."""
        if self._begun:
            try:
                self._connection.send(tables.COMMIT)
                self._connection.post()
            except ConnectionLost:
                self._link.drop()

    def _ask(self, name: bytes, *parameters: bytes) -> list[tuple[bytes | None, ...]]:
        if self._begun:
            return super()._ask(name, *parameters)
        retry = Retry(limits.ENGINE_READ_S)
        while True:
            try:
                self._connection = self._link.get(retry.left_s)
                self._connection.send(tables.BEGIN_SNAPSHOT)
                self._connection.send(name, *parameters)
                rows = self._connection.sync(retry.left_s)[-1].rows
            except ConnectionLost as lost:  # nothing has been seen yet, so another snapshot does as well
                self._link.drop()
                retry.pause(lost)
            else:
                self._begun = True
                return rows


def _undo(connection: Connection) -> None:
    connection.send(tables.ROLLBACK)
    connection.post()


def _number(result: Result) -> int:
    return int.from_bytes(result.rows[0][0] or b"", "big")


def _portions(changes: Mapping[bytes, bytes | None]) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """What is to be stored, in key order, in statements of bounded size."""
    keys: list[bytes] = []
    values: list[bytes] = []
    size_bytes = 0
    for key, value in sorted(changes.items()):
        if value is None:
            continue
        if size_bytes > limits.ENGINE_STATEMENT_MAX_BYTES:
            yield keys, values
            keys, values, size_bytes = [], [], 0
        keys.append(key)
        values.append(value)
        size_bytes += len(key) + len(value)
    if keys:
        yield keys, values
