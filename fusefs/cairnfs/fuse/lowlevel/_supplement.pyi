from collections.abc import Callable
from typing import Any, Final, TypeVar

class _Extra:
    request: int
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
    def cairn_watch(self, req: Any, /) -> int: ...
    def cairn_reply_error(self, req: Any, error: int, /) -> int: ...
    def cairn_reply_lock(self, req: Any, kind: int, start: int, end: int, pid: int, /) -> int: ...
    def cairn_reply_lseek(self, req: Any, offset: int, /) -> int: ...
    def cairn_reply_copied(self, req: Any, count: int, /) -> int: ...

_Callback = TypeVar("_Callback", bound=Callable[..., int | None])

class _FFI:
    def cast(self, kind: str, value: Any, /) -> int: ...
    def def_extern(self, *, error: int = ...) -> Callable[[_Callback], _Callback]: ...

ffi: Final[_FFI]
lib: Final[_Lib]
