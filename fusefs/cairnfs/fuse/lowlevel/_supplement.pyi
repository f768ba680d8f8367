from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar, overload

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

class _Inode:
    ino: int
    size: int
    allocated_bytes: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    no_xattrs: int

class _Counts:
    lookup: int
    absent: int
    getattr: int
    xattr: int
    flush: int
    release: int
    listing: int

class _Later:
    kind: int
    id: int
    count: int

class _Lib:
    CAIRN_FORGET: Final[int]
    CAIRN_RELEASE: Final[int]
    CAIRN_RELEASEDIR: Final[int]
    cairn_current: Final[_Extra]
    cairn_connection: Final[_Connection]
    cairn_answered: Final[_Counts]
    cairn_waiting_later: Final[int]
    def cairn_book_open(self, nodes_max: int, entries_max: int, timeout_s: int, /) -> int: ...
    def cairn_publish_inode(self, inode: _Inode, /) -> None: ...
    def cairn_publish_entry(self, parent: int, name: bytes, length: int, ino: int, /) -> None: ...
    def cairn_publish_complete(self, directory: int, /) -> None: ...
    def cairn_withdraw_inode(self, ino: int, /) -> int: ...
    def cairn_withdraw_attributes(self, ino: int, /) -> None: ...
    def cairn_withdraw_entry(self, parent: int, name: bytes, length: int, /) -> None: ...
    def cairn_withdraw_directory(self, directory: int, /) -> None: ...
    def cairn_take_lookups(self, ino: int, /) -> int: ...
    def cairn_clear(self) -> None: ...
    def cairn_trust_until(self, boottime_ns: int, /) -> None: ...
    def cairn_take_later(self, into: Sequence[_Later], room: int, /) -> int: ...
    def cairn_rest(self, wait_ns: int, /) -> int: ...
    def cairn_publish_handle(self, handle: int, only_read: int, /) -> None: ...
    def cairn_withdraw_handle(self, handle: int, /) -> None: ...
    def cairn_listing_ends(self, handle: int, offset: int, /) -> None: ...
    def cairn_expire_entries(self) -> int: ...
    def cairn_watch(self, req: Any, /) -> int: ...
    def cairn_reply_error(self, req: Any, error: int, /) -> int: ...
    def cairn_reply_lock(self, req: Any, kind: int, start: int, end: int, pid: int, /) -> int: ...
    def cairn_reply_lseek(self, req: Any, offset: int, /) -> int: ...
    def cairn_reply_copied(self, req: Any, count: int, /) -> int: ...

_Callback = TypeVar("_Callback", bound=Callable[..., int | None])

class _FFI:
    @overload
    def new(self, kind: Literal["cairn_inode *"], /) -> _Inode: ...
    @overload
    def new(self, kind: Literal["cairn_later[]"], count: int, /) -> Sequence[_Later]: ...
    def cast(self, kind: str, value: Any, /) -> int: ...
    def def_extern(self, *, error: int = ...) -> Callable[[_Callback], _Callback]: ...

ffi: Final[_FFI]
lib: Final[_Lib]
