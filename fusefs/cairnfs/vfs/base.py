"""The common base of the parts that make up the file system."""

from cairnfs.vfs.flusher import Flusher
from cairnfs.vfs.local import LocalChanges
from cairnfs.vfs.prefetch import Prefetcher
from cairnfs.vfs.reader import Reader
from cairnfs.vfs.sender import Sender
from cairnfs.vfs.state import State
from cairnfs.vfs.upgrades import Upgrades


class Part:
    """Holds what every part uses; `VFS` inherits from all parts."""

    state: State
    flusher: Flusher
    prefetcher: Prefetcher
    reader: Reader
    sender: Sender
    local: LocalChanges
    upgrades: Upgrades
