"""The side socket of a datanode: its name, who may use it, and messages that carry descriptors.

A packet is one protobuf message (SideRequest or SideReply); descriptors come with it as SCM_RIGHTS.
"""

import array
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from cairnfs.base import limits

VERSION: Final = 1
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(limits.LOCATE_CHUNKS_MAX * array.array("i").itemsize)
RECEIVE_FLAGS: Final = socket.MSG_CMSG_CLOEXEC

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


def side_address(unix_socket: str) -> str:
    """Where the side socket is, for a datanode whose gRPC socket has this abstract name."""
    return f"\0{unix_socket}-files"


def peer_uid(connection: Any) -> int:
    """The user of the other end when it connected or listened."""
    found: bytes = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(found)[1]
    return uid


def is_trusted(connection: Any) -> bool:
    """Whether the other end runs as root or as this process's user."""
    return peer_uid(connection) in (0, os.geteuid())


def ancillary(descriptors: Sequence[int]) -> list[tuple[int, int, "array.array[int]"]]:
    """What `sendmsg` takes to send these descriptors along."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


def received_descriptors(ancillary_data: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Descriptors that came with a packet, now the caller's; fewer than were sent when its table is full."""
    found = array.array("i")
    for level, kind, data in ancillary_data:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
