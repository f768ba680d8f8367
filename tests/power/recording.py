"""Notes on a `Disk` what a program does to files: through the functions of `os`, and through SQLite."""

# apsw's stubs use a Buffer type that only Python 3.12 knows.
# pyright: reportUnknownMemberType=false

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import apsw

from tests.power.disk import Disk, Resize, SyncDirectory, SyncFile, Write

_RECORDED: Final = (
    *("open", "close", "write", "pwrite", "pwritev", "ftruncate", "posix_fallocate", "fsync", "fdatasync"),
    *("mkdir", "rename", "replace", "unlink"),
)
_DURABLE_WRITE: Final = os.RWF_SYNC | os.RWF_DSYNC
_LOG_FLAGS: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL


class Killed(BaseException):
    """The process was killed: what it wrote is in the page cache."""


class OsRecorder:
    """While entered, calls of `os` that change files below the disk's root are noted, after they succeeded.

    What reaches files in another way is not seen: `Disk.whole` then differs from the directory, which is what
    the tests compare it with.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.kill_after = -1  # this many calls are made, the next one raises Killed; -1: none does
        self._real: dict[str, Any] = {}
        self._files: dict[int, int] = {}  # descriptor -> file
        self._directories: dict[int, str] = {}

    def __enter__(self) -> "OsRecorder":
        for name in _RECORDED:
            self._real[name] = getattr(os, name)
            setattr(os, name, self._killable(name, getattr(self, f"_do_{name}")))
        return self

    def _killable(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name != "close":
                if self.kill_after == 0:
                    self.kill_after = -1
                    raise Killed
                self.kill_after -= self.kill_after > 0
            return function(*arguments, **options)

        return call

    def __exit__(self, *_: object) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)

    # ------------------------------------------------------------------ descriptors

    def _do_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        name = self._disk.relative(path)
        if name is not None:
            assert dir_fd is None, "not recorded"
            assert not flags & (os.O_SYNC | os.O_DSYNC), "not recorded"
            if os.path.isdir(path):
                self._directories[descriptor] = name
            else:
                self._files[descriptor] = self._disk.file(name)
                if flags & os.O_TRUNC:
                    self._disk.events.append(Resize(self._files[descriptor], 0))
        return descriptor

    def _do_close(self, descriptor: int) -> None:
        self._files.pop(descriptor, None)
        self._directories.pop(descriptor, None)
        self._real["close"](descriptor)

    # ------------------------------------------------------------------ content

    def _do_write(self, descriptor: int, data: Any) -> int:
        assert descriptor not in self._files, "not recorded"
        done: int = self._real["write"](descriptor, data)
        return done

    def _do_pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        done: int = self._real["pwrite"](descriptor, data, offset)
        if (file := self._files.get(descriptor)) is not None:
            self._disk.events.append(Write(file, offset, bytes(memoryview(data)[:done])))
        return done

    def _do_pwritev(self, descriptor: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        done: int = self._real["pwritev"](descriptor, buffers, offset, flags)
        if (file := self._files.get(descriptor)) is not None:
            assert not flags & _DURABLE_WRITE, "not recorded"
            data = b"".join([bytes(buffer) for buffer in buffers])[:done]
            self._disk.events.append(Write(file, offset, data))
        return done

    def _do_ftruncate(self, descriptor: int, size: int) -> None:
        self._real["ftruncate"](descriptor, size)
        if (file := self._files.get(descriptor)) is not None:
            self._disk.events.append(Resize(file, size))

    def _do_posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        before = os.fstat(descriptor).st_size
        self._real["posix_fallocate"](descriptor, offset, length)
        if (file := self._files.get(descriptor)) is not None and offset + length > before:
            self._disk.events.append(Resize(file, offset + length))

    def _do_fsync(self, descriptor: int) -> None:
        self._sync("fsync", descriptor)

    def _do_fdatasync(self, descriptor: int) -> None:
        self._sync("fdatasync", descriptor)

    def _sync(self, call: str, descriptor: int) -> None:
        self._real[call](descriptor)
        if descriptor in self._directories:
            self._disk.events.append(SyncDirectory(self._directories[descriptor]))
        elif descriptor in self._files:
            self._disk.events.append(SyncFile(self._files[descriptor]))

    # ------------------------------------------------------------------ names

    def _do_mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        if (name := self._disk.relative(path)) is not None:
            self._disk.make_directory(name)

    def _do_rename(self, old: Any, new: Any) -> None:
        self._real["rename"](old, new)
        names = self._disk.relative(old), self._disk.relative(new)
        if names[0] is not None and names[1] is not None:
            self._disk.rename(names[0], names[1])

    _do_replace = _do_rename

    def _do_unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._real["unlink"](path, dir_fd=dir_fd)
        if (name := self._disk.relative(path)) is not None:
            self._disk.remove(name)


class RecordingVfs(apsw.VFS):
    """The default VFS of SQLite, whose writes, syncs and deletions are noted."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.disk: Disk | None = None

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "apsw.VFSFile":
        return _RecordedFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        disk = self.disk
        if disk is not None and (name := disk.relative(filename)) is not None:
            disk.remove(name)
            if syncdir:
                disk.events.append(SyncDirectory(os.path.dirname(name) or "."))


class _RecordedFile(apsw.VFSFile):
    """One file of a RecordingVfs."""

    def __init__(self, vfs: RecordingVfs, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        filename = name.filename() if isinstance(name, apsw.URIFilename) else name
        relative = None if vfs.disk is None or filename is None else vfs.disk.relative(filename)
        self._disk = vfs.disk
        self._file = 0 if vfs.disk is None or relative is None else vfs.disk.file(relative)
        self._directory = os.path.dirname(relative or "") or "."
        # SQLite's own VFS syncs the directory with the first sync of a log.
        self._name_unsynced = bool(flags[0] & _LOG_FLAGS)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        if self._disk is not None and self._file:
            self._disk.events.append(Write(self._file, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        if self._disk is not None and self._file:
            self._disk.events.append(Resize(self._file, newsize))

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        if self._disk is not None and self._file:
            self._disk.events.append(SyncFile(self._file))
            if self._name_unsynced:
                self._name_unsynced = False
                self._disk.events.append(SyncDirectory(self._directory))
