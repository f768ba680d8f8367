"""A SQLite VFS whose writes and fsyncs fail on request."""

# apsw's stubs use a Buffer type that only Python 3.12 knows.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Generator
from contextlib import contextmanager

import apsw


class FaultyVfs(apsw.VFS):
    """The default VFS, except that files fail while `failing` says so.

    `no_space` lets every write fail with SQLITE_FULL, `no_sync` every fsync with SQLITE_IOERR_FSYNC (after
    the data has reached the file), `no_read` every read with SQLITE_IOERR_READ, `no_database_write` every
    write into the database itself, but not into its log, with SQLITE_IOERR_WRITE. `on_checkpoint` is called
    before every write into the database itself.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.failing: str | None = None
        self.on_checkpoint: Callable[[], None] = lambda: None
        self.log_events: list[str] = []  # "write" and "sync" of write-ahead logs, in order

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "FaultyFile":
        return FaultyFile(self, name, flags)

    @contextmanager
    def fault(self, kind: str) -> Generator[None]:
        """Let files fail with `kind` inside."""
        self.failing = kind
        try:
            yield
        finally:
            self.failing = None


class FaultyFile(apsw.VFSFile):
    """One file of a FaultyVfs."""

    def __init__(self, vfs: FaultyVfs, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._vfs = vfs
        self._is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        self._is_database = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._vfs.failing == "no_read":
            raise apsw.exception_for(apsw.SQLITE_IOERR_READ)
        return bytes(super().xRead(amount, offset))

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._vfs.failing == "no_space":
            raise apsw.exception_for(apsw.SQLITE_FULL)
        if self._is_database:
            self._vfs.on_checkpoint()
            if self._vfs.failing == "no_database_write":
                raise apsw.exception_for(apsw.SQLITE_IOERR_WRITE)
        super().xWrite(data, offset)
        self._note("write")

    def xSync(self, flags: int) -> None:
        if self._vfs.failing == "no_sync":
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)
        self._note("sync")

    def _note(self, event: str) -> None:
        if self._is_log:
            self._vfs.log_events.append(event)
