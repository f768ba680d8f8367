"""Carries out operations as system calls below directories: mounts of a cluster, or any local file system."""

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.operations import MODE_MASK, Op, Result, Stat, pattern

_AT_FDCWD = -100
_KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}
_LOCKS = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "u": fcntl.F_UNLCK}
_FLOCKS = {"r": fcntl.LOCK_SH, "w": fcntl.LOCK_EX, "u": fcntl.LOCK_UN}


class Mounted:
    """Actors that work below `roots`, actor n below root n modulo their number."""

    def __init__(self, roots: list[Path], happenings: dict[str, Callable[[Op], None]] | None = None) -> None:
        self.roots = [str(root) for root in roots]
        self.happenings = happenings or {}
        self.files: dict[tuple[int, int], int] = {}
        self._flocked: set[tuple[int, int]] = set()
        self._libc = ctypes.CDLL(None, use_errno=True)

    def run(self, op: Op) -> Result:
        """The result of one call; safe to use from one thread per actor."""
        if op.call in self.happenings:
            self.happenings[op.call](op)
            return Result()
        call = getattr(self, f"_{op.call}", None)
        if call is None:
            return Result()  # what only a simulation can do
        try:
            return Result(call(op, *op.args))
        except OSError as error:
            return Result(error=errno.errorcode[error.errno or errno.EIO])

    def close(self) -> None:
        """Close what is open."""
        for file in self.files.values():
            os.close(file)
        self.files.clear()

    # ------------------------------------------------------------------ helpers

    def _path(self, op: Op, path: str) -> str:
        return self.roots[op.actor % len(self.roots)] + path

    def _file(self, op: Op, slot: int) -> int:
        file = self.files.get((op.actor, slot))
        if file is None:
            raise OSError(errno.EBADF, "the slot is empty")
        return file

    def _check(self, result: int) -> None:
        if result < 0:
            raise OSError(ctypes.get_errno(), "failed")

    def _stat_of(self, found: os.stat_result) -> Stat:
        kind = _KINDS[stat.S_IFMT(found.st_mode)]
        return Stat(
            kind,
            found.st_mode & MODE_MASK,
            found.st_nlink,
            found.st_uid,
            found.st_gid,
            -1 if kind == "d" else found.st_size,
            found.st_ino,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )

    # ------------------------------------------------------------------ names

    def _mkdir(self, op: Op, path: str, mode: int) -> None:
        os.mkdir(self._path(op, path), mode)

    def _symlink(self, op: Op, target: str, path: str) -> None:
        os.symlink(target, self._path(op, path))

    def _link(self, op: Op, source: str, path: str) -> None:
        os.link(self._path(op, source), self._path(op, path), follow_symlinks=False)

    def _unlink(self, op: Op, path: str) -> None:
        os.unlink(self._path(op, path))

    def _rmdir(self, op: Op, path: str) -> None:
        os.rmdir(self._path(op, path))

    def _rename(self, op: Op, old: str, new: str, flags: int) -> None:
        paths = (self._path(op, old).encode(), self._path(op, new).encode())
        self._check(self._libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], flags))

    # ------------------------------------------------------------------ attributes

    def _chmod(self, op: Op, path: str, mode: int) -> None:
        os.chmod(self._path(op, path), mode)

    def _chown(self, op: Op, path: str, uid: int, gid: int) -> None:
        os.chown(self._path(op, path), uid, gid)

    def _utimens(self, op: Op, path: str, mtime_ns: int) -> None:
        os.utime(self._path(op, path), ns=(mtime_ns, mtime_ns))

    def _stat(self, op: Op, path: str) -> Stat:
        return self._stat_of(os.stat(self._path(op, path)))

    def _lstat(self, op: Op, path: str) -> Stat:
        return self._stat_of(os.lstat(self._path(op, path)))

    def _readlink(self, op: Op, path: str) -> str:
        return os.readlink(self._path(op, path))

    def _readdir(self, op: Op, path: str) -> list[str]:
        return sorted(os.listdir(self._path(op, path)))

    def _setxattr(self, op: Op, path: str, name: str, value: str, flags: int) -> None:
        os.setxattr(self._path(op, path), name, value.encode(), flags)

    def _getxattr(self, op: Op, path: str, name: str) -> str:
        return os.getxattr(self._path(op, path), name).decode()

    def _listxattr(self, op: Op, path: str) -> list[str]:
        return sorted(name for name in os.listxattr(self._path(op, path)) if name.startswith("user."))

    def _removexattr(self, op: Op, path: str, name: str) -> None:
        os.removexattr(self._path(op, path), name)

    # ------------------------------------------------------------------ open files

    def _open(self, op: Op, slot: int, path: str, flags: int, mode: int) -> None:
        if (op.actor, slot) in self.files:
            raise OSError(errno.EBUSY, "the slot is taken")
        self.files[op.actor, slot] = os.open(self._path(op, path), flags, mode)

    def _close(self, op: Op, slot: int) -> None:
        file = self._file(op, slot)
        if (op.actor, slot) in self._flocked:
            # The kernel does not wait until others know of a BSD lock's end by close(2): internals/posix.md.
            fcntl.flock(file, fcntl.LOCK_UN)
            self._flocked.discard((op.actor, slot))
        del self.files[op.actor, slot]
        os.close(file)

    def _pwrite(self, op: Op, slot: int, offset: int, length: int) -> int:
        return os.pwrite(self._file(op, slot), pattern(op.number, length), offset)

    def _pread(self, op: Op, slot: int, offset: int, length: int) -> bytes:
        return os.pread(self._file(op, slot), length, offset)

    def _truncate(self, op: Op, path: str, size: int) -> None:
        os.truncate(self._path(op, path), size)

    def _ftruncate(self, op: Op, slot: int, size: int) -> None:
        os.ftruncate(self._file(op, slot), size)

    def _fallocate(self, op: Op, slot: int, mode: int, offset: int, length: int) -> None:
        file = self._file(op, slot)
        self._check(self._libc.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)))

    def _fstat(self, op: Op, slot: int) -> Stat:
        return self._stat_of(os.fstat(self._file(op, slot)))

    def _fsync(self, op: Op, slot: int) -> None:
        os.fsync(self._file(op, slot))

    def _freaddir(self, op: Op, slot: int) -> list[str]:
        try:
            return sorted(os.listdir(self._file(op, slot)))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return []  # a directory that was removed
            raise

    def _flock(self, op: Op, slot: int, kind: str) -> None:
        fcntl.flock(self._file(op, slot), _FLOCKS[kind] | fcntl.LOCK_NB)
        self._flocked.add((op.actor, slot))

    def _lockf(self, op: Op, slot: int, kind: str, start: int, length: int) -> None:
        lock: Any = struct.pack("hhqqi", _LOCKS[kind], os.SEEK_SET, start, length, 0)
        try:
            fcntl.fcntl(self._file(op, slot), fcntl.F_SETLK, lock)
        except OSError as error:
            raise OSError(errno.EAGAIN if error.errno == errno.EACCES else error.errno, "locked") from error
