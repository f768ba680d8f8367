"""Values of the metadata engine: compact fixed layouts, because every operation decodes some.

Named tuples rather than dataclasses: as immutable, and made from an unpacked struct in one call.
"""

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from cairnfs.rpc.v1 import common_pb2 as pb

_INODE: Final = Struct(">IIIIQQQqqqQIQQ")
# The same as the wire form of common.proto's Attr: each field behind its tag, in the order of their numbers.
_ATTR: Final = Struct("<BQBIBIBIBIBQBQBQBqBqBqBQB?BQHQ")
_DENTRY: Final = Struct(">QB")
_REALM: Final = Struct(">QBBQQqqq")
_TRASHED: Final = Struct(">QQQI")
_CHUNK: Final = Struct(">IQBQBB")
_JOB: Final = Struct(">BBQQQQQQq")
_COUNT: Final = Struct(">H")
_NAMED: Final = Struct(">32sI")  # a chunk that slices of the block are of, and its length
_SLICE: Final = Struct(">IIIH")  # its place in the block, its length, its place in the chunk, which chunk
_NODE: Final = Struct(">I")

SLICE_BYTES: Final = _NAMED.size + _SLICE.size  # at most
ATTR_BYTES: Final = _ATTR.size  # of Inode.wire


class Inode(NamedTuple):
    """Attributes of one inode. Times are nanoseconds since the epoch; `xattrs` counts them."""

    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    allocated_bytes: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    change: int
    xattrs: int
    parent: int  # of a directory; 0 otherwise
    realm: int  # the directory whose policy holds for it (docs/internals/realms.md)

    def encode(self) -> bytes:
        """The engine's value."""
        return _INODE.pack(*self)

    @classmethod
    def decode(cls, value: bytes) -> "Inode":
        """The inode in an engine's value."""
        # As _make does, without counting: every operation comes here, and unpack returns what it was told to.
        return tuple.__new__(cls, _INODE.unpack(value))

    def wire(self, ino: int) -> bytes:
        """The serialized message that clients get: less than half the cost of setting its fields."""
        # fmt: off
        mode, uid, gid, nlink, rdev, size, held, atime, mtime, ctime, change, xattrs, parent, realm = self
        return _ATTR.pack(
            0x09, ino, 0x15, mode, 0x1D, uid, 0x25, gid, 0x2D, nlink, 0x31, rdev, 0x39, size, 0x41, held,
            0x49, atime, 0x51, mtime, 0x59, ctime, 0x61, change, 0x68, xattrs > 0, 0x71, parent,
            0x01F1, realm,
        )
        # fmt: on

    def fill(self, attr: pb.Attr, ino: int) -> None:
        """Write the inode into a new message."""
        attr.MergeFromString(self.wire(ino))

    def to_attr(self, ino: int) -> pb.Attr:
        """The message that clients get."""
        attr = pb.Attr()
        self.fill(attr, ino)
        return attr


class Dentry(NamedTuple):
    """What a name leads to. `kind` is the file type: the mode's upper bits, shifted right by 12."""

    ino: int
    kind: int

    def encode(self) -> bytes:
        """The engine's value."""
        return _DENTRY.pack(*self)

    @classmethod
    def decode(cls, value: bytes) -> "Dentry":
        """The entry in an engine's value."""
        return cls._make(_DENTRY.unpack(value))


class BlockSlice(NamedTuple):
    """A run of bytes of one block: `offset` counts from the start of the block."""

    offset: int
    length: int
    chunk_offset: int
    chunk_id: bytes
    chunk_length: int

    @property
    def end(self) -> int:
        """The first offset behind this slice."""
        return self.offset + self.length

    def cut(self, start: int, end: int) -> "BlockSlice":
        """The part of this slice from `start` to before `end` (offsets in the block, inside the slice)."""
        return BlockSlice(
            start, end - start, self.chunk_offset + start - self.offset, self.chunk_id, self.chunk_length
        )

    def continues(self, other: "BlockSlice") -> bool:
        """Whether this slice goes on exactly where `other` ends, in the file and in the same chunk."""
        return (
            self.offset == other.offset + other.length
            and self.chunk_offset == other.chunk_offset + other.length
            and self.chunk_id == other.chunk_id
        )


def encode_slices(slices: Sequence[BlockSlice]) -> bytes:
    """The engine's value of one block: the chunks, each once, then the slices."""
    named = dict.fromkeys([(one.chunk_id, one.chunk_length) for one in slices])
    numbers = {chunk: number for number, chunk in enumerate(named)}
    pack = _SLICE.pack
    return b"".join(
        [
            _COUNT.pack(len(named)),
            *[_NAMED.pack(*chunk) for chunk in named],
            *[
                pack(offset, length, chunk_offset, numbers[chunk_id, chunk_length])
                for offset, length, chunk_offset, chunk_id, chunk_length in slices
            ],
        ]
    )


def decode_slices(value: bytes) -> list[BlockSlice]:
    """The slices of one block, sorted and disjoint."""
    (count,) = _COUNT.unpack_from(value)
    end = _COUNT.size + count * _NAMED.size
    named = list(_NAMED.iter_unpack(memoryview(value)[_COUNT.size : end]))
    return [
        BlockSlice._make((offset, length, chunk_offset, *named[number]))
        for offset, length, chunk_offset, number in _SLICE.iter_unpack(memoryview(value)[end:])
    ]


class ChunkState(IntEnum):
    """LIVE may be referenced; DELETING is being removed from the datanodes and may not."""

    LIVE = 0
    DELETING = 1


class Wish(NamedTuple):
    """How many replicas the files that share a chunk want.

    `replicas` is the most that a policy asks for (0: none does); `default` whether a file without a policy
    refers to it as well.
    """

    replicas: int = 0
    default: bool = False

    def joined(self, other: "Wish") -> "Wish":
        """What both together want."""
        return Wish(max(self.replicas, other.replicas), self.default or other.default)

    def count(self, cluster_replicas: int) -> int:
        """The number, in a cluster whose own number is this."""
        if not self.replicas:
            return cluster_replicas
        return max(self.replicas, cluster_replicas) if self.default else self.replicas

    def byte(self) -> int:
        """As a record keeps it."""
        return self.replicas | _DEFAULT * self.default

    @classmethod
    def of_byte(cls, value: int) -> "Wish":
        """The wish that `byte` made."""
        return cls(value & ~_DEFAULT, value >= _DEFAULT)


_DEFAULT: Final = 0x80
NO_WISH: Final = Wish()


class ChunkRecord(NamedTuple):
    """A stored chunk: its length in bytes, how many slices refer to it, and which nodes hold it.

    `garbage_since_ns` is when the last reference went, and 0 while there is one. `wish` holds for the files
    that refer, or referred, to it; `new_wish` for those that the walk over all files has met, and for all
    later commits (upkeep/policies.py).
    """

    length: int
    references: int
    state: ChunkState
    garbage_since_ns: int
    nodes: tuple[int, ...]
    wish: Wish = NO_WISH
    new_wish: Wish = NO_WISH

    def encode(self) -> bytes:
        """The engine's value."""
        wishes = self.wish.byte(), self.new_wish.byte()
        head = _CHUNK.pack(self.length, self.references, self.state, self.garbage_since_ns, *wishes)
        return head + b"".join([_NODE.pack(node) for node in self.nodes])

    @classmethod
    def decode(cls, value: bytes) -> "ChunkRecord":
        """The chunk in an engine's value."""
        length, references, state, since_ns, wish, new_wish = _CHUNK.unpack_from(value)
        nodes = tuple(node for (node,) in _NODE.iter_unpack(value[_CHUNK.size :]))
        wishes = Wish.of_byte(wish), Wish.of_byte(new_wish)
        return cls(length, references, ChunkState(state), since_ns, nodes, *wishes)


class RealmState(IntEnum):
    """ACTIVE holds its limits; TAGGING and REMOVING are still being walked, and hold none."""

    ACTIVE = 0
    TAGGING = 1
    REMOVING = 2


AS_AROUND: Final = -1


class Realm(NamedTuple):
    """The policy of a directory, and what is used in it and in the realms that it encloses.

    Limits of 0 are none, `replicas` of 0 are those of the enclosing realm, which is `parent` (0: the root's).
    `trash_s` is how long removed files are kept, in seconds; AS_AROUND: as long as in the enclosing realm.
    """

    parent: int
    state: RealmState = RealmState.ACTIVE
    replicas: int = 0
    space_limit_bytes: int = 0
    inodes_limit: int = 0
    used_bytes: int = 0
    used_inodes: int = 0
    trash_s: int = AS_AROUND

    def encode(self) -> bytes:
        """The engine's value."""
        return _REALM.pack(*self)

    @classmethod
    def decode(cls, value: bytes) -> "Realm":
        """The realm in an engine's value."""
        parent, state, *others = _REALM.unpack(value)
        return cls(parent, RealmState(state), *others)


class TreeKind(IntEnum):
    """What a tree is copied for, or was."""

    SNAPSHOT = 0
    CLONE = 1


class TreeState(IntEnum):
    """COPYING needs a view that ends with its coordinator.

    ABANDONED copies, which nobody has seen, and trees that lost their names (REMOVING) are removed by this or
    the next one.
    """

    COPYING = 0
    ABANDONED = 1
    REMOVING = 2


class TreeJob(NamedTuple):
    """A tree that is being copied, or removed (docs/internals/snapshots.md).

    `directory` and `name` are where a copy will be found: for a snapshot, the directory that it is of.
    `root` is the tree, which has no other name; 0 when there is none any more. `steps` counts transactions,
    `inodes` and `shared_bytes` what was made, or the inodes that were removed.
    """

    kind: TreeKind
    state: TreeState
    directory: int
    root: int
    realm: int
    steps: int
    inodes: int
    shared_bytes: int
    started_ns: int
    name: bytes

    def encode(self) -> bytes:
        """The engine's value."""
        return _JOB.pack(*self[:-1]) + self.name

    @classmethod
    def decode(cls, value: bytes) -> "TreeJob":
        """The job in an engine's value."""
        kind, state, directory, root, realm, steps, inodes, shared_bytes, started_ns = _JOB.unpack_from(value)
        name = value[_JOB.size :]
        state = TreeState(state)
        return cls(
            TreeKind(kind), state, directory, root, realm, steps, inodes, shared_bytes, started_ns, name
        )


class Trashed(NamedTuple):
    """Where something in the trash was, who removed it (uid) when, and when it is removed for good."""

    parent: int
    removed_ns: int
    expires_ns: int
    uid: int
    name: bytes

    def encode(self) -> bytes:
        """The engine's value."""
        *numbers, name = self
        return _TRASHED.pack(*numbers) + name

    @classmethod
    def decode(cls, value: bytes) -> "Trashed":
        """What an engine's value says."""
        return cls._make((*_TRASHED.unpack_from(value), value[_TRASHED.size :]))
