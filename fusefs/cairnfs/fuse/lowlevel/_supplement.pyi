from typing import Any, Final

from cffi import FFI

class _Extra:
    lock_owner: int
    flock_release: int
    xattr_flags: int
    readdir_size: int

class _Connection:
    proto_minor: int
    wanted: int
    max_write: int
    max_background: int

class _Lib:
    cairn_current: Final[_Extra]
    cairn_connection: Final[_Connection]
    def cairn_wait_readable(self, fd: int, timeout_us: int, /) -> int: ...
    def cairn_watch_interrupt(self, req: Any, key: int, /) -> None: ...
    def cairn_reply_error(self, req: Any, error: int, /) -> int: ...
    def cairn_reply_lock(self, req: Any, kind: int, start: int, end: int, pid: int, /) -> int: ...
    def cairn_reply_lseek(self, req: Any, offset: int, /) -> int: ...
    def cairn_reply_copied(self, req: Any, count: int, /) -> int: ...

ffi: Final[FFI]
lib: Final[_Lib]
