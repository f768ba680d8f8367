"""What is worth keeping in the trash: clients and coordinator must agree on it (docs/internals/trash.md)."""

import stat
from typing import Final

# Programs give these names to files of their own that they remove, or replace, as a matter of course:
# editors (vim, emacs, LibreOffice, GNOME), NFS and FUSE for removed files that are still open.
_PREFIXES: Final = (b".nfs", b".fuse_hidden", b".goutputstream-", b".~lock.", b"~$", b".#")
_SUFFIXES: Final = (b"~", b".tmp", b".temp", b".swp", b".swpx", b".swx")
_NAMES: Final = frozenset({b"4913"})  # vim tries with it whether it may write here
_KINDS: Final = frozenset({stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR})


def is_worth_keeping(name: bytes, mode: int) -> bool:
    """Whether something of this name and type goes into the trash when it is removed, where there is one."""
    return (
        stat.S_IFMT(mode) in _KINDS
        and not name.endswith(_SUFFIXES)
        and not name.startswith(_PREFIXES)
        and name not in _NAMES
    )
