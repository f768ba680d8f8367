"""`vfs.answers.Answers` over the supplement, whose thread answers the kernel without running Python."""

from array import array
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import (
    ANSWERS_CONTENTS_MAX,
    ANSWERS_ENTRIES_MAX,
    ANSWERS_INODES_MAX,
    NAME_MAX_BYTES,
)
from cairnfs.fuse import later
from cairnfs.fuse.attributes import Presentation, links
from cairnfs.fuse.lowlevel import ffi, lib
from cairnfs.rpc.v1 import common_pb2 as common
from cairnfs.vfs.answers import Absorbed, Content, Name

_NS_PER_S = 1_000_000_000
_WRITTEN = Struct("=QQqQ")  # inode, offset, time, length


class KernelAnswers:
    """The answers of this process's mount; there is one book of them. See `vfs.answers` for the promises."""

    def __init__(self, presentation: Presentation, timeout_s: float) -> None:
        """The kernel may keep what it is told for `timeout_s` seconds, rounded down."""
        self._presentation = presentation
        self._to_kernel = presentation.to_kernel
        self._inode = ffi.new("cairn_inode *")
        self._log = ffi.new("char **")
        self._content = ffi.new("cairn_content *")
        self._name = ffi.new("char[]", NAME_MAX_BYTES + 1)
        if lib.cairn_book_open(
            ANSWERS_INODES_MAX, ANSWERS_ENTRIES_MAX, int(timeout_s)
        ) or lib.cairn_contents_open(ANSWERS_CONTENTS_MAX):
            raise CairnError(common.ERROR_CODE_INTERNAL, "no memory for the answers to the kernel")
        self.clear()
        self.trust_until(0)

    def publish_inode(self, attr: common.Attr, *, changing: bool = False) -> None:
        """Tell these attributes, or only that there are no extended ones."""
        shown, inode = self._presentation, self._inode
        inode.ino = self._to_kernel(attr.ino)
        inode.mode = attr.mode
        inode.nlink = links(attr)
        inode.uid = attr.uid if shown.uid is None else shown.uid
        inode.gid = attr.gid if shown.gid is None else shown.gid
        inode.rdev = attr.rdev & 0xFFFFFFFF
        inode.size = attr.size
        inode.allocated_bytes = attr.allocated_bytes
        inode.atime_ns = attr.atime_ns
        inode.mtime_ns = attr.mtime_ns
        inode.ctime_ns = attr.ctime_ns
        inode.no_xattrs = not attr.has_xattrs
        inode.changing = changing
        lib.cairn_publish_inode(inode)

    def publish_entry(self, parent: int, name: bytes, ino: int | None) -> None:
        """Tell that the name is this inode, or absent."""
        target = 0 if ino is None else self._to_kernel(ino)
        lib.cairn_publish_entry(self._to_kernel(parent), name, len(name), target)

    def publish_complete(self, directory: int) -> None:
        """Tell that other names are absent."""
        lib.cairn_publish_complete(self._to_kernel(directory))

    def publish_listing(self, directory: int, above: int, listing: Sequence[Name]) -> None:
        """List these names when the directory is opened."""
        lib.cairn_publish_listing(self._to_kernel(directory), self._to_kernel(above), *_packed(listing))

    def continue_listing(
        self, handle: int, position: int, directory: int, above: int, page: Sequence[Name], *, ended: bool
    ) -> bool:
        """List these names, too."""
        places = self._to_kernel(directory), self._to_kernel(above)
        return bool(lib.cairn_continue_listing(handle, position, ended, *places, *_packed(page)))

    def take_listing(self, handle: int, position: int) -> bytes | None:
        """List no more of what the directory had."""
        taken = lib.cairn_take_listing(handle, position, self._name, NAME_MAX_BYTES + 1)
        return ffi.string(self._name) if taken else None

    def withdraw_inode(self, ino: int) -> int:
        """Do not tell its attributes any more."""
        return lib.cairn_withdraw_inode(self._to_kernel(ino))

    def withdraw_attributes(self, ino: int) -> None:
        """Do not tell its attributes any more, apart from what is known of extended ones."""
        lib.cairn_withdraw_attributes(self._to_kernel(ino))

    def withdraw_entry(self, parent: int, name: bytes) -> None:
        """Do not tell of this name any more."""
        lib.cairn_withdraw_entry(self._to_kernel(parent), name, len(name))

    def withdraw_directory(self, ino: int) -> None:
        """Do not tell of names in this directory any more."""
        lib.cairn_withdraw_directory(self._to_kernel(ino))

    def take_lookups(self, ino: int) -> int:
        """References given to the kernel since this was last asked."""
        return lib.cairn_take_lookups(self._to_kernel(ino))

    def publish_handle(self, handle: int) -> None:
        """Closing a descriptor of this open file needs no answer from here."""
        lib.cairn_publish_handle(handle, 0)

    def withdraw_handle(self, handle: int) -> None:
        """Closing it may have something to report."""
        lib.cairn_withdraw_handle(handle)

    def lend(self, descriptor: int) -> int:
        """Read contents from this file, too."""
        return lib.cairn_lend(descriptor)

    def end_loan(self, loan: int) -> None:
        """Read nothing from it any more."""
        lib.cairn_end_loan(loan)

    def publish_content(self, ino: int, content: Content) -> bool:
        """Read these bytes of a file when they are asked for."""
        place = self._content
        place.ino = self._to_kernel(ino)
        (
            place.start,
            place.length,
            place.source,
            place.position,
            place.chunk_offset,
            place.chunk_length,
            checksums,
        ) = content
        return bool(lib.cairn_publish_content(place, checksums, len(checksums)))

    def catch_up(self) -> None:
        """Tell of what was opened and closed."""
        if lib.cairn_waiting_later:
            later.catch_up()

    def publish_writer(self, handle: int, ino: int) -> None:
        """Take small writes through this open file at once."""
        lib.cairn_publish_writer(handle, ino)

    def withdraw_writer(self, handle: int) -> None:
        """Take no more of them."""
        lib.cairn_withdraw_writer(handle)

    def room_for_writes(self, size_bytes: int) -> None:
        """Take so many bytes more."""
        lib.cairn_room_for_writes(size_bytes)

    def take_writes(self) -> Iterator[Absorbed]:
        """What was written."""
        size = lib.cairn_take_writes(self._log)
        view = memoryview(ffi.buffer(self._log[0], size)) if size else memoryview(b"")
        at = 0
        while at < size:
            ino, offset, time_ns, length = _WRITTEN.unpack_from(view, at)
            at += _WRITTEN.size
            yield Absorbed(ino, offset, view[at : at + length], time_ns)
            at += -(-length // 8) * 8

    def clear(self) -> None:
        """Tell nothing any more."""
        lib.cairn_clear()

    def trust_until(self, boottime_s: float) -> None:
        """Tell nothing after this time."""
        # A session that was fenced may be trusted until minus infinity.
        lib.cairn_trust_until(int(max(boottime_s, 0.0) * _NS_PER_S))


def _packed(listing: Sequence[Name]) -> tuple[bytes, int, Any, Any, int]:
    """Names, and arrays of numbers and modes, as the supplement takes them.

    No listing has the kernel's root in it, so numbers are the same to both.
    """
    names = b"\0".join([name for name, _, _ in listing])
    inos = array("Q", [ino for _, ino, _ in listing])
    modes = array("I", [mode for _, _, mode in listing])
    return (
        names,
        len(names),
        ffi.from_buffer("uint64_t[]", inos),
        ffi.from_buffer("uint32_t[]", modes),
        len(listing),
    )
