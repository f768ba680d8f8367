"""Between our attributes and the kernel's: inode numbers, entries, changed fields, free space."""

from dataclasses import dataclass

from cairnfs.base.limits import CHUNK_MAX_BYTES, NAME_MAX_BYTES, TRASH_INO
from cairnfs.fuse.lowlevel import pyfuse3
from cairnfs.rpc.v1 import common_pb2 as common
from cairnfs.vfs.interface import Node, SetAttributes, Space

_KERNEL_ROOT = int(pyfuse3.ROOT_INODE)
_SECTOR_BYTES = 512  # the unit of st_blocks, whatever the block size
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Presentation:
    """How this mount shows inodes: its root as the kernel's 1, and owners (None: the true ones)."""

    root_ino: int
    uid: int | None = None
    gid: int | None = None

    def to_kernel(self, ino: int) -> int:
        """The kernel's number for one of ours."""
        return _KERNEL_ROOT if ino == self.root_ino else ino

    def from_kernel(self, ino: int) -> int:
        """Our number for one of the kernel's."""
        return self.root_ino if ino == _KERNEL_ROOT else ino

    def entry(self, node: Node) -> pyfuse3.EntryAttributes:
        """The reply for `node`; one without attributes is a negative entry, which the kernel may cache."""
        entry = pyfuse3.EntryAttributes()
        entry.entry_timeout = node.entry_timeout_s
        entry.attr_timeout = node.attr_timeout_s
        attr = node.attr
        if attr is None:
            entry.st_ino = pyfuse3.InodeT(0)
            return entry
        ino = attr.ino
        entry.st_ino = pyfuse3.InodeT(_KERNEL_ROOT if ino == self.root_ino else ino)
        entry.st_mode = pyfuse3.ModeT(attr.mode)
        entry.st_nlink = links(attr)
        entry.st_uid = attr.uid if self.uid is None else self.uid
        entry.st_gid = attr.gid if self.gid is None else self.gid
        if attr.rdev:
            entry.st_rdev = attr.rdev
        entry.st_size = attr.size
        entry.st_blocks = -(-attr.allocated_bytes // _SECTOR_BYTES)
        entry.st_blksize = _BLOCK_BYTES
        entry.st_atime_ns = attr.atime_ns
        entry.st_mtime_ns = attr.mtime_ns
        entry.st_ctime_ns = attr.ctime_ns
        return entry


def links(attr: common.Attr) -> int:
    """The number of links to be shown: a name in the trash is none."""
    return 0 if attr.realm == TRASH_INO != attr.ino else attr.nlink


def wanted_changes(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> SetAttributes:
    """The fields of a setattr request that are to change."""
    return SetAttributes(
        mode=int(attr.st_mode) & 0o7777 if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
    )


def statvfs(space: Space) -> pyfuse3.StatvfsData:
    """The reply to statfs, in units of 4 KiB."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = CHUNK_MAX_BYTES
    data.f_frsize = _BLOCK_BYTES
    data.f_blocks = space.total_bytes // _BLOCK_BYTES
    data.f_bfree = data.f_bavail = space.free_bytes // _BLOCK_BYTES
    data.f_files = space.inodes_used + space.inodes_free
    data.f_ffree = data.f_favail = space.inodes_free
    data.f_namemax = NAME_MAX_BYTES
    return data
