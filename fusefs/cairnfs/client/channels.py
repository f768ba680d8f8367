"""One stream per datanode, opened when it is needed and again after it broke."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import trio

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2


class Channel(Protocol):
    """A stream to one datanode and what is under way on it."""

    broken: bool

    async def serve(self) -> CairnError:
        """Handle what arrives until the stream is over, and close it; why it ended."""
        ...

    def fail(self, error: CairnError) -> None:
        """End everything under way with `error`."""
        ...

    def check_progress(self) -> None:
        """Give up what has made no progress for TRANSFER_PROGRESS_S."""
        ...


C = TypeVar("C", bound=Channel)


class Channels(Generic[C]):
    """The channels to all datanodes, by number. Its nursery outlives every caller."""

    def __init__(self, opener: Callable[[common_pb2.NodeInfo], C], nursery: trio.Nursery) -> None:
        self._opener = opener
        self._nursery = nursery
        self._channels: dict[int, C] = {}

    def to(self, info: common_pb2.NodeInfo) -> C:
        """The channel to a datanode, opened at once if there is none that works."""
        channel = self._channels.get(info.node)
        if channel is None or channel.broken:
            channel = self._channels[info.node] = self._opener(info)
            self._nursery.start_soon(self._serve, info.node, channel)
        return channel

    async def _serve(self, node: int, channel: C) -> None:
        error = await channel.serve()
        channel.fail(error)
        if self._channels.get(node) is channel:
            del self._channels[node]

    def check_progress(self) -> None:
        """Look for what makes no progress; call about once a second."""
        for channel in list(self._channels.values()):
            channel.check_progress()
