"""Numbered membership changes, the newest of them kept for those who ask what they missed."""

from collections import deque

from cairnfs.base.limits import MEMBERSHIP_RING
from cairnfs.rpc.v1 import common_pb2


class UpdateRing:
    """The last `size` changes, numbered without gaps from `first_version` + 1.

    A coordinator passes a `first_version` above all that an earlier incarnation gave out, so that a
    version of then is never taken for one of now.
    """

    def __init__(self, size: int = MEMBERSHIP_RING, first_version: int = 0) -> None:
        if size < 1:
            raise ValueError("the ring holds at least one update")
        self._updates: deque[common_pb2.NodeUpdate] = deque(maxlen=size)
        self._first = first_version
        self._version = first_version

    @property
    def version(self) -> int:
        """The number of the newest change, or `first_version`."""
        return self._version

    def append(self, info: common_pb2.NodeInfo, *, removed: bool = False) -> common_pb2.NodeUpdate:
        """Number a change and keep it; the oldest one falls out of a full ring."""
        self._version += 1
        update = common_pb2.NodeUpdate(version=self._version, info=info, removed=removed)
        self._updates.append(update)
        return update

    def updates_since(self, version: int) -> list[common_pb2.NodeUpdate] | None:
        """What happened after `version`, oldest first; None when only a full resync can tell."""
        missed = self._version - version
        if version < self._first or missed < 0 or missed > len(self._updates):
            return None
        return [self._updates[index] for index in range(len(self._updates) - missed, len(self._updates))]
