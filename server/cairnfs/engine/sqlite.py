"""The embedded engine: one SQLite file in WAL mode, written and checkpointed by one connection.

Why it is set up as it is: docs/decisions/0001-sqlite-through-apsw.md.
"""

# apsw's stubs use a Buffer type that only Python 3.12 knows.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import contextlib
import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import apsw

from cairnfs.base.limits import ENGINE_CACHE_MAX_BYTES, KIB, WAL_CHECKPOINT_PAGES
from cairnfs.base.logs import get_logger
from cairnfs.engine.buffered import Changes, Pair, Prefetched, run_operations, scan_pages
from cairnfs.engine.directories import sync_directory
from cairnfs.engine.file_lock import FileLock
from cairnfs.engine.interface import EngineBroken, EngineError, Operation, Outcome, ReadTransaction, T

APPLICATION_ID = 0x4361726E  # "Carn": tells our files from other SQLite databases
FORMAT_VERSION = 1

_BUSY_TIMEOUT_MS = 5_000  # somebody looks at the file with a tool of SQLite
_READER_WAIT_S = 0.1  # reads are far shorter; a checkpoint that cannot have its way waits for the next commit

_CREATE_TABLE = "CREATE TABLE kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
_GET = "SELECT v FROM kv WHERE k = ?"
_KEYS_AT_ONCE = 64
_GET_MANY = {
    count: f"SELECT k, v FROM kv WHERE k IN ({','.join('?' * count)})"
    for count in (1 << power for power in range(_KEYS_AT_ONCE.bit_length()))
}
_SCAN = "SELECT k, v FROM kv WHERE k >= ? AND k < ? ORDER BY k LIMIT ?"
_SCAN_REVERSE = "SELECT k, v FROM kv WHERE k >= ? AND k < ? ORDER BY k DESC LIMIT ?"
_PUT = "REPLACE INTO kv (k, v) VALUES (?, ?)"
_DELETE = "DELETE FROM kv WHERE k = ?"

_log = get_logger(__name__)


class SqliteEngine:
    """An engine in the file `path`, with a lock file beside it that admits one process.

    Raises EngineLocked when another process holds it, EngineError when the file cannot be used. `vfs` names
    a registered SQLite VFS; a log longer than `checkpoint_pages` is written back into the file.
    """

    def __init__(
        self, path: Path, *, vfs: str | None = None, checkpoint_pages: int = WAL_CHECKPOINT_PAGES
    ) -> None:
        self._path = path
        self._vfs = vfs
        self._checkpoint_pages = checkpoint_pages
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            with self._reporting():
                self._writer = self._connect(vfs)
                undo.callback(self._writer.close)
                self._prepare()
                self._reader = self._connect(vfs)
                undo.callback(self._reader.close)
                _configure(self._reader)
            self._undo = undo.pop_all()
        self._reader_view = _View(self._reader, path)
        self._writer_view = _View(self._writer, path)
        self._writer_cursor = self._writer.cursor()
        self._writer.set_wal_hook(self._note_wal_pages)
        self._read_lock = threading.Lock()  # held while the reader connection is used
        self._commits = 0
        self._commits_seen = -1  # when the reader's transaction began; -1: it is to begin another
        self._wal_pages = 0
        self._checkpoint_failed = False
        self._broken = ""  # why, once it is
        self._closed = False

    leads_until_s = math.inf  # the lock file admits nobody else

    def acquire_leadership(self, owner: str, term_s: float) -> int:
        """Who has the lock file leads."""
        self._check_usable()
        return 1

    def renew_leadership(self) -> None:
        """The term does not end."""
        self._check_usable()

    def read(self, body: Callable[[ReadTransaction], T]) -> T:
        """Run `body` on a snapshot of the last commit; called from one thread only, never blocks long."""
        with self._read_lock:
            # Beginning a transaction costs as much as a look-up, so one serves until something changes.
            if self._commits_seen != self._commits:
                self._begin_read()
            try:
                return body(self._reader_view)
            except EngineError:
                self._commits_seen = -1  # some errors end the transaction
                raise

    def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Run `operations` in order and make all their changes durable together.

        Raises EngineError when nothing was committed, EngineBroken when that is not known.
        """
        self._check_usable()
        try:
            with self._reporting():
                self._writer_cursor.execute("BEGIN IMMEDIATE")
                hints = {key for operation in operations for key in operation.prefetch}
                view = Prefetched(self._writer_view, self._writer_view.get_many(hints))
                outcomes, changes = run_operations(view, operations)
                self._store(changes)
            self._make_durable()
        except BaseException:
            self._roll_back()
            raise
        if changes:
            self._commits += 1
            self._checkpoint_when_due()
        return outcomes

    @contextlib.contextmanager
    def snapshot(self) -> Generator[ReadTransaction]:
        """The last commit, to be read for as long as it takes, in any one thread, beside everything else.

        Until it is left, the log grows with every commit.
        """
        if self._closed:
            raise EngineError(f"{self._path} is closed")
        with contextlib.ExitStack() as undo:
            with self._reporting():
                connection = self._connect(self._vfs)
                undo.callback(connection.close)
                _configure(connection)
                connection.execute("BEGIN")
            view = _View(connection, self._path)
            view.get(b"")  # the transaction has its snapshot from its first look
            yield view

    def close(self) -> None:
        """Write the log back into the file and give up the lock; idempotent. Raises EngineError."""
        if self._closed:
            return
        with self._read_lock, self._reporting():
            self._closed = True
            self._commits_seen = -1
            self._undo.close()

    # ------------------------------------------------------------------ opening

    def _connect(self, vfs: str | None) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(str(self._path), flags=flags, vfs=vfs)
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        return connection

    def _prepare(self) -> None:
        """Check that the file is ours, or make it so when it is new, before anything else touches it."""
        writer = self._writer
        application, tables = writer.pragma("application_id"), writer.pragma("schema_version")
        if application == 0 and tables == 0:
            _configure(writer)
            with writer:
                writer.execute(_CREATE_TABLE)
                writer.pragma("application_id", APPLICATION_ID)
                writer.pragma("user_version", FORMAT_VERSION)
            sync_directory(self._path.parent)
            return
        if application != APPLICATION_ID:
            raise EngineError(f"{self._path} is a database of another program")
        version = writer.pragma("user_version")
        if version != FORMAT_VERSION:
            raise EngineError(f"{self._path} has format {version}; this release reads {FORMAT_VERSION}")
        _configure(writer)

    # ------------------------------------------------------------------ reading

    def _begin_read(self) -> None:
        if self._closed:
            raise EngineError(f"{self._path} is closed")
        # Noted before the snapshot is taken: a commit in between only costs one more refresh.
        commits = self._commits
        with self._reporting():
            self._end_read()
            self._reader.execute("BEGIN")
        self._commits_seen = commits

    def _end_read(self) -> None:
        self._commits_seen = -1
        if self._reader.in_transaction:
            self._reader.execute("COMMIT")

    # ------------------------------------------------------------------ committing

    def _check_usable(self) -> None:
        if self._closed:
            raise EngineError(f"{self._path} is closed")
        if self._broken:
            raise EngineBroken(self._broken)

    def _store(self, changes: Changes) -> None:
        """Write `changes` in key order, which touches each page of the table once."""
        ordered = sorted(changes.items())
        puts = [(key, value) for key, value in ordered if value is not None]
        deletes = [(key,) for key, value in ordered if value is None]
        if puts:
            self._writer_cursor.executemany(_PUT, puts)
        if deletes:
            self._writer_cursor.executemany(_DELETE, deletes)

    def _make_durable(self) -> None:
        try:
            self._writer_cursor.execute("COMMIT")
        except (apsw.FullError, apsw.BusyError) as error:
            # The frame that ends the commit is written last, so the log cannot be read as holding it.
            raise _engine_error(self._path, error) from error
        except apsw.Error as error:
            # A failed fsync may have stored the whole commit, and a second one would report success
            # whatever it stored: neither yes nor no is true until the log is read again.
            self._broken = f"{self._path}: {_reason(error)}; restart to find out what is stored"
            _log.error("engine_broken", path=str(self._path), reason=_reason(error))
            raise EngineBroken(self._broken) from error

    def _roll_back(self) -> None:
        with contextlib.suppress(apsw.Error):
            if self._writer.in_transaction:
                self._writer_cursor.execute("ROLLBACK")

    # ------------------------------------------------------------------ checkpoints

    def _note_wal_pages(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint_when_due(self) -> None:
        """Write a long log back into the file, so that the next commit starts it from the beginning.

        The reader's open transaction would hold both back, so it is ended first (what it may still need is
        in the log) and once more afterwards (what it needs is in the file then).
        """
        if self._wal_pages < self._checkpoint_pages:
            return
        try:
            if self._release_reader():
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                self._release_reader()
            self._checkpoint_failed = False
        except apsw.Error as error:
            # The commit itself is safe in the log; the next one tries again.
            if not self._checkpoint_failed:
                _log.warning("engine_checkpoint_failed", path=str(self._path), reason=_reason(error))
            self._checkpoint_failed = True

    def _release_reader(self) -> bool:
        """End the reader's transaction, from the committing thread; False when it is busy for long."""
        if not self._read_lock.acquire(timeout=_READER_WAIT_S):
            return False
        try:
            self._end_read()
        finally:
            self._read_lock.release()
        return True

    @contextlib.contextmanager
    def _reporting(self) -> Generator[None]:
        try:
            yield
        except apsw.Error as error:
            raise _engine_error(self._path, error) from error
        except OSError as error:
            raise EngineError(f"{self._path}: {error.strerror}") from error


class _View:
    """What one connection sees; every statement is finished at once, so that none holds a snapshot."""

    __slots__ = ("_cursor", "_path")

    def __init__(self, connection: apsw.Connection, path: Path) -> None:
        self._cursor = connection.cursor()
        self._path = path

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._cursor.execute(_GET, (key,)).get
        except apsw.Error as error:
            raise _engine_error(self._path, error) from error
        return value

    def get_many(self, wanted: Iterable[bytes]) -> dict[bytes, bytes | None]:
        keys = sorted(wanted)
        found: dict[bytes, bytes | None] = dict.fromkeys(keys)
        try:
            for first in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[first : first + _KEYS_AT_ONCE]
                # Few different statements, which SQLite keeps compiled; a key asked for twice does no harm.
                some += some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))
                rows = self._cursor.execute(_GET_MANY[len(some)], some).fetchall()
                found.update(cast("list[Pair]", rows))
        except apsw.Error as error:
            raise _engine_error(self._path, error) from error
        return found

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Pair]:
        return scan_pages(self._page, start, end, limit, reverse)

    def _page(self, start: bytes, end: bytes, count: int, reverse: bool) -> list[Pair]:
        try:
            rows = self._cursor.execute(_SCAN_REVERSE if reverse else _SCAN, (start, end, count)).fetchall()
        except apsw.Error as error:
            raise _engine_error(self._path, error) from error
        return cast("list[Pair]", rows)


def _configure(connection: apsw.Connection) -> None:
    """Set what is not kept in the file, and WAL mode, which is."""
    if connection.pragma("journal_mode", "wal") != "wal":
        raise EngineError(f"{connection.filename} cannot have a write-ahead log here")
    connection.pragma("synchronous", "full")
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("mmap_size", 0)
    connection.pragma("cache_size", -(ENGINE_CACHE_MAX_BYTES // KIB))
    connection.pragma("cell_size_check", True)
    connection.pragma("trusted_schema", False)


def _engine_error(path: Path, error: apsw.Error) -> EngineError:
    return EngineError(f"{path}: {_reason(error)}")


def _reason(error: apsw.Error) -> str:
    """One line with SQLite's own name for the error, which people can look up."""
    code = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
    name = apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes.get(code)
    return f"{str(error) or 'storage failed'} ({name})"
