"""Keys of the metadata engine: a letter for the kind, then big-endian numbers, a name at most at the end.

Byte order of the keys is the order of their parts, so a range of keys is a range of numbers or names.
File names may hold every byte but 0 and "/", and always come last; nothing needs escaping.
"""

from struct import Struct
from typing import Final

Range = tuple[bytes, bytes]

_ONE: Final = Struct(">cQ")
_TWO: Final = Struct(">cQQ")
_HEAD_BYTES: Final = _ONE.size
_NUMBER_END: Final = 1 << 64
_REPLY_TAIL_BYTES: Final = 1 + 8  # a zero byte and the number


def _one(kind: bytes, number: int) -> bytes:
    return _ONE.pack(kind, number)


def _following(kind: bytes, number: int) -> bytes:
    """The first key of `kind` behind every key that starts with `number`."""
    return _ONE.pack(kind, number + 1) if number + 1 < _NUMBER_END else _next_kind(kind)


def _next_kind(kind: bytes) -> bytes:
    return bytes((kind[0] + 1,))


def _first(key: bytes) -> int:
    return int.from_bytes(key[1:_HEAD_BYTES], "big")


# ------------------------------------------------------------------ inodes


def inode(ino: int) -> bytes:
    """Attributes of an inode (records.Inode)."""
    return _one(b"i", ino)


def inode_range(after: int = 0) -> Range:
    """All inodes with numbers above `after`."""
    return _following(b"i", after), _next_kind(b"i")


def inode_of(key: bytes) -> int:
    """The number in a key of an inode, extent, xattr, symlink or orphan; the directory of an entry."""
    return _first(key)


def symlink(ino: int) -> bytes:
    """Target of a symbolic link, as raw bytes."""
    return _one(b"l", ino)


def orphan(ino: int) -> bytes:
    """Marks an inode without a name that is still to be reaped."""
    return _one(b"o", ino)


def orphan_range(after: int = 0) -> Range:
    """All orphans with numbers above `after`."""
    return _following(b"o", after), _next_kind(b"o")


# ------------------------------------------------------------------ directory entries


def dentry(directory: int, name: bytes) -> bytes:
    """The entry `name` of a directory (records.Dentry)."""
    return _one(b"d", directory) + name


def dentry_range(directory: int, after: bytes = b"") -> Range:
    """Entries of one directory with names above `after`."""
    start = dentry(directory, after)
    return start + b"\0" if after else start, _following(b"d", directory)


def all_dentries(after: bytes = b"") -> Range:
    """Entries of all directories, behind the dentry key `after`."""
    return after + b"\0" if after else b"d", _next_kind(b"d")


def dentry_name(key: bytes) -> bytes:
    """The name in a key made by `dentry`."""
    return key[_HEAD_BYTES:]


# ------------------------------------------------------------------ extended attributes


def xattr(ino: int, name: bytes) -> bytes:
    """One extended attribute, as raw bytes."""
    return _one(b"x", ino) + name


def xattr_range(ino: int) -> Range:
    """All extended attributes of an inode."""
    return _one(b"x", ino), _following(b"x", ino)


def xattr_name(key: bytes) -> bytes:
    """The name in a key made by `xattr`."""
    return key[_HEAD_BYTES:]


# ------------------------------------------------------------------ data


def extent(ino: int, block: int) -> bytes:
    """Slices of one 4 MiB block of a file (records.decode_slices)."""
    return _TWO.pack(b"e", ino, block)


def extent_range(ino: int, first_block: int = 0, end_block: int = _NUMBER_END) -> Range:
    """Blocks of one file from `first_block` to before `end_block`."""
    end = extent(ino, end_block) if end_block < _NUMBER_END else _following(b"e", ino)
    return extent(ino, first_block), end


def all_extents(after: bytes = b"") -> Range:
    """Blocks of all files, behind the extent key `after`."""
    return after + b"\0" if after else b"e", _next_kind(b"e")


def extent_block(key: bytes) -> int:
    """The block number in a key made by `extent`."""
    return int.from_bytes(key[_HEAD_BYTES:], "big")


def chunk(chunk_id: bytes) -> bytes:
    """A stored chunk (records.ChunkRecord)."""
    return b"c" + chunk_id


def chunk_range(after: bytes = b"") -> Range:
    """All chunks with ids above `after`."""
    return b"c" + after + b"\0" if after else b"c", _next_kind(b"c")


def chunk_id(key: bytes) -> bytes:
    """The id in a key made by `chunk`."""
    return key[1:]


def garbage(since_ns: int, chunk_id: bytes) -> bytes:
    """Index of chunks without references, by the time (ns since the epoch) they lost the last one."""
    return _one(b"g", since_ns) + chunk_id


def garbage_range(before_ns: int) -> Range:
    """Index entries of chunks unreferenced since earlier than `before_ns`."""
    return b"g", _one(b"g", before_ns)


def all_garbage(after: bytes = b"") -> Range:
    """All index entries, behind the key `after`."""
    return after + b"\0" if after else b"g", _next_kind(b"g")


def garbage_since_ns(key: bytes) -> int:
    """The time in a key made by `garbage`."""
    return _first(key)


def garbage_chunk_id(key: bytes) -> bytes:
    """The chunk id in a key made by `garbage`."""
    return key[_HEAD_BYTES:]


def short_of_replicas(ino: int) -> bytes:
    """Blocks of a file that were committed with fewer replicas than its policy wants."""
    return _one(b"y", ino)


def all_short_of_replicas() -> Range:
    """All files that have such blocks."""
    return b"y", _next_kind(b"y")


def policy_walk() -> bytes:
    """How far changed replica counts were carried out (upkeep/policies.py)."""
    return b"npolicy-walk"


def short_of_replicas_ino(key: bytes) -> int:
    """The inode in a key made by `short_of_replicas`, or in that of an extent."""
    return _first(key)


# ------------------------------------------------------------------ realms (docs/internals/realms.md)


def realm(ino: int) -> bytes:
    """The policy and usage of a directory that is a realm (records.Realm)."""
    return _one(b"q", ino)


def realm_range(after: int = 0) -> Range:
    """All realms with numbers above `after`."""
    return _following(b"q", after), _next_kind(b"q")


def trashed(ino: int) -> bytes:
    """What is known of an inode in the trash (records.Trashed)."""
    return _one(b"t", ino)


def all_trashed(after: int = 0) -> Range:
    """All such records with inode numbers above `after`."""
    return _following(b"t", after), _next_kind(b"t")


def trash_end(expires_ns: int, ino: int) -> bytes:
    """Index of what is in the trash, by the time (ns since the epoch) at which it is removed for good."""
    return _TWO.pack(b"u", expires_ns, ino)


def all_trash_ends(after: bytes = b"") -> Range:
    """All index entries, behind the key `after`."""
    return after + b"\0" if after else b"u", _next_kind(b"u")


def trash_end_ns(key: bytes) -> int:
    """The time in a key made by `trash_end`."""
    return _first(key)


def trash_end_ino(key: bytes) -> int:
    """The inode in a key made by `trash_end`."""
    return int.from_bytes(key[_HEAD_BYTES:], "big")


def retag(realm: int, directory: int) -> bytes:
    """A directory whose entries are still to be given to, or taken from, a realm: the last name done."""
    return _TWO.pack(b"w", realm, directory)


def retag_range(realm: int) -> Range:
    """Everything that is left to be done for one realm."""
    return _one(b"w", realm), _following(b"w", realm)


def retag_directory(key: bytes) -> int:
    """The directory in a key made by `retag`."""
    return int.from_bytes(key[_HEAD_BYTES:], "big")


# ------------------------------------------------------------------ trees (docs/internals/snapshots.md)


def tree_job(number: int) -> bytes:
    """A tree that is being copied or removed (records.TreeJob); its number is that of its root."""
    return _one(b"j", number)


def tree_job_range() -> Range:
    """All of them."""
    return b"j", _next_kind(b"j")


def tree_job_number(key: bytes) -> int:
    """The number in a key made by `tree_job`."""
    return _first(key)


def copied_link(job: int, ino: int) -> bytes:
    """The copy of a file with several names, while its tree is copied: its number, in 8 bytes."""
    return _TWO.pack(b"h", job, ino)


def copied_link_range(job: int) -> Range:
    """All of one tree."""
    return _one(b"h", job), _following(b"h", job)


# ------------------------------------------------------------------ sessions, counters, nodes, settings


def session(session_id: str) -> bytes:
    """A client session that may come back."""
    return b"s" + session_id.encode()


def session_range() -> Range:
    """All sessions."""
    return b"s", _next_kind(b"s")


def session_id(key: bytes) -> str:
    """The id in a key made by `session` or `ended_session`."""
    return key[1:].decode()


def ended_session(session_id: str) -> bytes:
    """Marks a session that has ended, and of whose replies some are still to be deleted."""
    return b"z" + session_id.encode()


def ended_session_range() -> Range:
    """All sessions that have ended and left replies."""
    return b"z", _next_kind(b"z")


def reply(session_id: str, seq: int) -> bytes:
    """The reply to a mutation that was executed, until the client acknowledged it."""
    return b"r" + session_id.encode() + b"\0" + seq.to_bytes(8, "big")


def reply_range(session_id: str, through_seq: int = _NUMBER_END - 1) -> Range:
    """Replies of one session with numbers up to and including `through_seq`."""
    prefix = b"r" + session_id.encode()
    if through_seq + 1 < _NUMBER_END:
        return prefix + b"\0", reply(session_id, through_seq + 1)
    return prefix + b"\0", prefix + b"\1"


def reply_session_id(key: bytes) -> str:
    """The session in a key made by `reply`."""
    return key[1:-_REPLY_TAIL_BYTES].decode()


def all_replies(after: bytes = b"") -> Range:
    """Replies of all sessions, behind the key `after`."""
    return after + b"\0" if after else b"r", _next_kind(b"r")


def counter(name: str) -> bytes:
    """A named number, such as the next free inode number."""
    return b"n" + name.encode()


def node(number: int) -> bytes:
    """A registered datanode."""
    return _one(b"m", number)


def node_range() -> Range:
    """All datanodes."""
    return b"m", _next_kind(b"m")


def node_number(key: bytes) -> int:
    """The number in a key made by `node`."""
    return _first(key)


def setting(name: str) -> bytes:
    """A durable setting of the whole cluster, such as its id."""
    return b"p" + name.encode()
