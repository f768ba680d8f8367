"""Opening the metadata engine that the settings name."""

import socket
from pathlib import Path
from typing import Final

from cairnfs.base.ids import new_id
from cairnfs.engine.directories import make_directory, sync_directory
from cairnfs.engine.file_lock import FileLock
from cairnfs.engine.interface import Engine, EngineError
from cairnfs.engine.memory import MemoryEngine
from cairnfs.engine.sqlite import SqliteEngine

ENGINES: Final = ("sqlite", "memory", "postgresql://…")
SQLITE_FILE: Final = "metadata.sqlite"
_POSTGRES: Final = ("postgresql://", "postgres://")
_LOCK_FILE: Final = "coordinator.lock"
_OWNER_FILE: Final = "coordinator.id"
_NOTHING: Final = (f"{SQLITE_FILE}.lock", "lost+found")


def open_engine(kind: str, directory: Path, password_file: Path | None = None) -> Engine:
    """The engine `kind` ("sqlite", "memory" or the URL of a PostgreSQL database).

    `directory` is made when missing; it has the files of SQLite, and for PostgreSQL a lock file: one
    coordinator uses it at a time. The memory engine leaves it alone. `password_file` has the password.

    Raises ValueError for another kind or a wrong URL, EngineLocked when another coordinator holds the
    directory, and EngineError when what is there cannot be used.
    """
    if kind == "memory":
        return MemoryEngine()
    if kind == "sqlite":
        _make(directory)
        _refuse_foreign(directory)
        return SqliteEngine(directory / SQLITE_FILE)
    if kind.startswith(_POSTGRES):
        return _open_postgres(kind, directory, password_file)
    raise ValueError(f"metadata engine {kind!r} is not one of {', '.join(ENGINES)}")


def owner_in(directory: Path) -> str:
    """The name of whoever uses `directory`, made up when it is first asked for.

    It leads under this name again at once after a crash: the lock file shows that the process before is gone.
    Raises EngineError.
    """
    path = directory / _OWNER_FILE
    try:
        _make(directory)
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.write_text(f"{socket.gethostname()}/{new_id()}\n")
            fresh.rename(path)
            sync_directory(directory)
        return path.read_text().strip()
    except OSError as error:
        raise EngineError(f"cannot keep {path}: {error.strerror}") from error


def _open_postgres(url: str, directory: Path, password_file: Path | None) -> Engine:
    # Loading the driver takes a tenth of a second, which only those who use it should wait for.
    from cairnfs.engine.postgres import PostgresEngine
    from cairnfs.engine.postgres_address import parse_address

    address = parse_address(url, password_file)
    _make(directory)
    lock = FileLock(directory / _LOCK_FILE)
    try:
        return PostgresEngine(address, closed=lock.release)
    except BaseException:
        lock.release()
        raise


def _make(directory: Path) -> None:
    try:
        make_directory(directory)
    except OSError as error:
        raise EngineError(f"cannot make {directory}: {error.strerror}") from error


def _refuse_foreign(directory: Path) -> None:
    """A new file system begins in an empty directory, not beside something else or the rest of another."""
    if (directory / SQLITE_FILE).exists():
        return
    strangers = sorted(entry.name for entry in directory.iterdir() if entry.name not in _NOTHING)
    if strangers:
        raise EngineError(f"{directory} is not empty and holds no metadata: {strangers[0]}")
