"""Names that no user gives to an entry, and that no listing shows: what they lead to is found by name only.

docs/internals/metadata.md ("Hidden entries") tells what follows from it.
"""

from typing import Final

from cairnfs.base.limits import ROOT_INO

TRASH: Final = b".trash"  # in the root directory of the file system
SNAPSHOTS: Final = b".snap"  # in every directory

HIDDEN_NAMES: Final = frozenset({TRASH, SNAPSHOTS})


def is_hidden(directory: int, name: bytes) -> bool:
    """Whether `name` is reserved in the directory with this inode number."""
    return name in HIDDEN_NAMES and (name != TRASH or directory == ROOT_INO)
