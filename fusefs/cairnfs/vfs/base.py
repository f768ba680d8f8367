"""The common base of the parts that make up the file system."""

from cairnfs.vfs.flusher import Flusher
from cairnfs.vfs.reader import Reader
from cairnfs.vfs.sender import Sender
from cairnfs.vfs.state import State


class Part:
    """Holds what every part uses; `VFS` inherits from all parts."""

    state: State
    flusher: Flusher
    reader: Reader
    sender: Sender
