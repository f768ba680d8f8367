"""What the kernel may be told without running Python: published under a lease, and withdrawn with it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from cairnfs.rpc.v1 import common_pb2 as common


class Content(NamedTuple):
    """Bytes [start, start + length) of a file, which begin at `chunk_offset` of a chunk.

    The chunk's `chunk_length` bytes are at `position` of the file lent as `loan`; `checksums` has the CRC-32C
    of every 64 KiB of it.
    """

    start: int
    length: int
    loan: int
    position: int
    chunk_offset: int
    chunk_length: int
    checksums: Sequence[int]


class Name(NamedTuple):
    """An entry of a listing: its name, its inode (0: it is never told) and the type of that, as in a mode."""

    name: bytes
    ino: int
    mode: int


class Absorbed(NamedTuple):
    """A write that was answered without running Python."""

    ino: int
    offset: int
    data: bytes | memoryview
    time_ns: int


class Answers(Protocol):
    """Answers given to the kernel by the FUSE layer on its own; all methods are quick and never wait.

    Inode numbers are those of the file system. What is published must be covered by a lease, as what is
    answered with a time-out is, and must be withdrawn in the step in which that ends: before a recall is
    acknowledged, and before the kernel is told to forget. When a withdrawal has returned, no older answer
    reaches the kernel any more. Nothing is answered after `trust_until`. What is published may be forgotten
    at any time for want of memory; withdrawing what was not published does nothing.
    """

    def publish_inode(self, attr: common.Attr, *, changing: bool = False) -> None:
        """`attr` is what stat(2) of its inode shows; and it has no extended attribute unless has_xattrs.

        Called again whenever the attributes change while they are published (or withdraw them). With
        `changing` they may change at any time: only that about extended ones is told.
        """
        ...

    def publish_entry(self, parent: int, name: bytes, ino: int | None) -> None:
        """`name` in `parent` stands for `ino`, or is absent (None).

        A present one is answered only while its inode is published, too.
        """
        ...

    def publish_complete(self, directory: int) -> None:
        """Every name in the directory that was not published is absent.

        From then on each new entry is published (or withdrawn, which ends this) in the step that learns of
        it.
        """
        ...

    def publish_listing(self, directory: int, above: int, listing: Sequence[Name]) -> None:
        """All entries of a directory that are published, in the order of a listing; `above` is its parent.

        From now on it may be opened and listed without the file system, which is told of that later
        (`FileSystem.opened_directory`), until an entry comes or goes, or its attributes are withdrawn. Every
        entry is told as published when it is told.
        """
        ...

    def continue_listing(
        self, handle: int, position: int, directory: int, above: int, page: Sequence[Name], *, ended: bool
    ) -> bool:
        """What an open directory lists from `position` on, which follows what was taken of it before.

        At position 0 it begins anew. False: it was not taken, and will not be told. Entries that are not
        published when it is their turn are left to `FileSystem.readdir`.
        """
        ...

    def take_listing(self, handle: int, position: int) -> bytes | None:
        """An open directory lists what `publish_listing` said: it does so no more. The name at `position`.

        None if it lists something else; at position 0 all of that ends.
        """
        ...

    def withdraw_inode(self, ino: int) -> int:
        """The attributes are not known any more; returns what `take_lookups` would."""
        ...

    def withdraw_attributes(self, ino: int) -> None:
        """The same after a change of our own that makes no extended attribute; references stay counted."""
        ...

    def withdraw_entry(self, parent: int, name: bytes) -> None:
        """It is not known whether the name exists; the directory is not complete any more."""
        ...

    def withdraw_directory(self, ino: int) -> None:
        """No entry of the directory is known. Takes the same time for any number of them."""
        ...

    def take_lookups(self, ino: int) -> int:
        """References to the inode that the kernel was given since this was last asked.

        Add them to the count of those that this program gave before a forget is subtracted from it, and
        before an inode is taken to be unreferenced.
        """
        ...

    def publish_handle(self, handle: int) -> None:
        """`FileSystem.flush` of this open file would do nothing.

        It is called all the same when the closing process may hold record locks on the file. Files opened for
        reading only need not be published.
        """
        ...

    def withdraw_handle(self, handle: int) -> None:
        """There is something to report or to wait for at the next close of a descriptor of this open file."""
        ...

    def lend(self, descriptor: int) -> int:
        """Take a copy of a descriptor of a file in which contents lie; its number, 0 if there is no room."""
        ...

    def end_loan(self, loan: int) -> None:
        """Nothing is read from this file any more; its copy of the descriptor is closed."""
        ...

    def publish_content(self, ino: int, content: Content) -> bool:
        """Where a part of what the file `ino` holds can be read; False: its attributes are not published.

        It is believed until these change or are withdrawn. Bytes that do not have their checksum are not
        told.
        """
        ...

    def catch_up(self) -> None:
        """Tell the file system, in this step, of every file that was opened without it: `FileSystem.opened`.

        Files are opened for reading while their attributes are published, and `FileSystem.closed` later.
        """
        ...

    def publish_writer(self, handle: int, ino: int) -> None:
        """Writes through this open file may be answered at once, and told of by `take_writes`.

        Its inode is under a WRITE lease, has no error to report, and is published as changing or not at all.
        """
        ...

    def withdraw_writer(self, handle: int) -> None:
        """Not any more. Take the writes that were answered before."""
        ...

    def room_for_writes(self, size_bytes: int) -> None:
        """So many bytes may be written before they are taken and this is told again."""
        ...

    def take_writes(self) -> Iterable[Absorbed]:
        """What was written since, in order; the data is valid until the next call."""
        ...

    def clear(self) -> None:
        """Nothing is known of any inode any more; references stay counted."""
        ...

    def trust_until(self, boottime_s: float) -> None:
        """What is published may be told until CLOCK_BOOTTIME reaches this; 0 (the start): not at all."""
        ...


class NoAnswers:
    """Knows nothing, so that every request reaches the file system."""

    def publish_inode(self, attr: common.Attr, *, changing: bool = False) -> None:
        """Ignored."""

    def publish_entry(self, parent: int, name: bytes, ino: int | None) -> None:
        """Ignored."""

    def publish_complete(self, directory: int) -> None:
        """Ignored."""

    def publish_listing(self, directory: int, above: int, listing: Sequence[Name]) -> None:
        """Ignored."""

    def continue_listing(
        self, handle: int, position: int, directory: int, above: int, page: Sequence[Name], *, ended: bool
    ) -> bool:
        """Ignored."""
        return False

    def take_listing(self, handle: int, position: int) -> bytes | None:
        """None."""
        return None

    def withdraw_inode(self, ino: int) -> int:
        """0."""
        return 0

    def withdraw_attributes(self, ino: int) -> None:
        """Ignored."""

    def withdraw_entry(self, parent: int, name: bytes) -> None:
        """Ignored."""

    def withdraw_directory(self, ino: int) -> None:
        """Ignored."""

    def take_lookups(self, ino: int) -> int:
        """0."""
        return 0

    def publish_handle(self, handle: int) -> None:
        """Ignored."""

    def withdraw_handle(self, handle: int) -> None:
        """Ignored."""

    def lend(self, descriptor: int) -> int:
        """0."""
        return 0

    def end_loan(self, loan: int) -> None:
        """Ignored."""

    def publish_content(self, ino: int, content: Content) -> bool:
        """Ignored."""
        return True

    def catch_up(self) -> None:
        """Nothing was opened."""

    def publish_writer(self, handle: int, ino: int) -> None:
        """Ignored."""

    def withdraw_writer(self, handle: int) -> None:
        """Ignored."""

    def room_for_writes(self, size_bytes: int) -> None:
        """Ignored."""

    def take_writes(self) -> Iterable[Absorbed]:
        """None."""
        return ()

    def clear(self) -> None:
        """Ignored."""

    def trust_until(self, boottime_s: float) -> None:
        """Ignored."""
