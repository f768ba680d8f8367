"""Keeps what a mount knows of names and inodes within bounds, however many it comes across.

An inode stays known for as long as the kernel refers to it, and a kernel with memory to spare never gives a
reference back by itself. So when too many are known, it is asked to forget the entries that were learned
first; its forgets then let the inodes go.
"""

import stat

from cairnfs.base import limits
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.state import State


class Trimmer:
    """Asks for references, and forgets entries, oldest first."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._running = False
        state.inodes.full = self._start

    def _start(self) -> None:
        self._forget_entries()
        if not self._running:
            self._running = True
            self._state.spawn(self._ask_for_references)

    def _forget_entries(self) -> None:
        """Forget entries that the kernel does not know, as far as there are too many."""
        known = list(self._state.inodes)
        excess = sum(inode.entries_known for inode in known) - limits.ENTRIES_KNOWN_MAX
        if excess <= 0:
            return
        excess += limits.ENTRIES_KNOWN_MAX // 4
        for directory in known:
            if directory.entries_known:
                excess -= self._forget_some(directory, excess)
            if excess <= 0:
                return

    def _forget_some(self, directory: Inode, most: int) -> int:
        """Forget up to `most` entries of a directory; returns how many."""
        directory.doubt()
        forgotten = 0
        for name, ino in list(directory.entries.items()):
            inode = self._state.inodes.find(ino) if ino else None
            # What is absent the kernel may know without a reference.
            if not ino or (inode is not None and not inode.idle):
                continue
            directory.forget_entry(name)
            if inode is not None and inode.count_lookups():
                directory.set_entry(name, ino)  # the kernel was told of it just before
                continue
            forgotten += 1
            if forgotten >= most:
                break
        return forgotten

    async def _ask_for_references(self) -> None:
        wanted = len(self._state.inodes) - limits.INODES_KNOWN_MAX * 3 // 4
        try:
            # Directories only if nothing else helps: one that is forgotten has no path for who works in it.
            for directories in (False, True):
                for directory in self._state.inodes:
                    if wanted <= 0:
                        return
                    names = self._forgettable(directory, wanted, directories=directories)
                    if names:
                        wanted -= len(names)
                        await self._state.notifier.invalidate_entries(directory.ino, names)
        finally:
            self._running = False

    def _forgettable(self, directory: Inode, count: int, *, directories: bool) -> list[bytes]:
        """Names of up to `count` entries that only the kernel holds on to."""
        names: list[bytes] = []
        find = self._state.inodes.find
        if not directory.entries_known:
            return names
        for name, ino in directory.entries.items():
            inode = find(ino) if ino else None
            if inode is None or inode.attr is None or inode.handles or not inode.count_lookups():
                continue
            if stat.S_ISDIR(inode.attr.mode) and not (directories and not inode.entries_known):
                continue
            names.append(name)
            if len(names) >= count:
                break
        return names
