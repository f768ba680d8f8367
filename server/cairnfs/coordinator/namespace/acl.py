"""POSIX access control lists in the form of their extended attributes (version 2, little-endian).

Rules of Linux (fs/posix_acl.c, acl(5)): which lists are valid, how mode bits and an access list follow
each other, and what a new file inherits from its directory's default list.
"""

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as pb

ACCESS_NAME: Final = b"system.posix_acl_access"
DEFAULT_NAME: Final = b"system.posix_acl_default"

_VERSION: Final = (2).to_bytes(4, "little")
_ENTRY: Final = Struct("<HHI")
_UNDEFINED_ID: Final = 0xFFFFFFFF


class Tag(IntEnum):
    """Whom an entry is about; entries are in the order of these numbers."""

    USER_OBJ = 0x01
    USER = 0x02
    GROUP_OBJ = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


class Entry(NamedTuple):
    """One entry: `perm` of 0 to 7, and a uid or gid where the tag is USER or GROUP."""

    tag: int
    perm: int
    id: int = _UNDEFINED_ID


Acl = tuple[Entry, ...]


def parse(value: bytes) -> Acl:
    """The valid list in an attribute's value; () means none.

    Raises CairnError INVALID for a malformed or inconsistent list, NOT_SUPPORTED for another version.
    """
    if len(value) < len(_VERSION) or (len(value) - len(_VERSION)) % _ENTRY.size:
        raise CairnError(pb.ERROR_CODE_INVALID, "size of an access control list")
    if value[: len(_VERSION)] != _VERSION:
        raise CairnError(pb.ERROR_CODE_NOT_SUPPORTED, "version of an access control list")
    acl = tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(value[len(_VERSION) :]))
    if acl and not _is_valid(acl):
        raise CairnError(pb.ERROR_CODE_INVALID, "access control list")
    return acl


def _is_valid(acl: Acl) -> bool:
    tags = [entry.tag for entry in acl]
    named = Tag.USER in tags or Tag.GROUP in tags
    return (
        tags == sorted(tags)
        and all(tags.count(tag) == 1 for tag in (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER))
        and tags.count(Tag.MASK) in ((1,) if named else (0, 1))
        and all(entry.tag in Tag.__members__.values() and entry.perm <= 7 for entry in acl)
        and all(entry.id != _UNDEFINED_ID for entry in acl if entry.tag in (Tag.USER, Tag.GROUP))
    )


def serialise(acl: Sequence[Entry]) -> bytes:
    """The attribute's value of a list."""
    return _VERSION + b"".join(
        _ENTRY.pack(tag, perm, number if tag in (Tag.USER, Tag.GROUP) else _UNDEFINED_ID)
        for tag, perm, number in acl
    )


def mode_of(acl: Acl, mode: int) -> int:
    """`mode` with the permission bits that an access list stands for: the group's are the mask's."""
    perms = {entry.tag: entry.perm for entry in acl}
    group = perms.get(Tag.MASK, perms[Tag.GROUP_OBJ])
    return (mode & ~0o777) | perms[Tag.USER_OBJ] << 6 | group << 3 | perms[Tag.OTHER]


def is_minimal(acl: Acl) -> bool:
    """Whether mode bits say all that the list says."""
    return all(entry.tag in (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER) for entry in acl)


def after_chmod(acl: Acl, mode: int) -> Acl:
    """The access list after chmod(2): its mask, or without one its group entry, follows the group bits."""
    group_tag = Tag.MASK if any(entry.tag == Tag.MASK for entry in acl) else Tag.GROUP_OBJ
    perms = {Tag.USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, Tag.OTHER: mode & 7}
    return tuple(entry._replace(perm=perms.get(Tag(entry.tag), entry.perm)) for entry in acl)


def inherit(default: Acl, mode: int) -> tuple[Acl, int]:
    """The access list and the mode of a new file in a directory with this default list.

    The mode asked for (without umask) limits the list, and the list limits the mode. The list is () when
    the mode says it all.
    """
    has_mask = any(entry.tag == Tag.MASK for entry in default)
    shifts = {Tag.USER_OBJ: 6, Tag.MASK if has_mask else Tag.GROUP_OBJ: 3, Tag.OTHER: 0}
    access = tuple(
        entry._replace(perm=entry.perm & (mode >> shifts[Tag(entry.tag)])) if entry.tag in shifts else entry
        for entry in default
    )
    return () if is_minimal(access) else access, mode_of(access, mode)
