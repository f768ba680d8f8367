"""Cuts the bytes of a call into gRPC messages, each of which is preceded by its length."""

from collections.abc import Iterator
from typing import Final

from cairnfs.base import limits
from cairnfs.http2 import frames
from cairnfs.http2.frames import ErrorCode, ProtocolError

_HEADER_BYTES: Final = frames.MESSAGE_HEADER_BYTES
_unpack: Final = frames.MESSAGE_HEADER.unpack_from


class MessageReader:
    """What has arrived of the next message of one call. A message in several pieces is copied once."""

    __slots__ = ("_head", "_missing_bytes", "_pieces")

    def __init__(self) -> None:
        self._head = b""  # while the length has not arrived completely
        self._pieces: list[memoryview] = []
        self._missing_bytes = 0

    def feed(self, data: bytes, at: int, end: int) -> Iterator[bytes]:
        """The messages that `data[at:end]` completes. Raises ProtocolError after those that were good."""
        while at < end:
            if self._missing_bytes:
                stop = min(end, at + self._missing_bytes)
                self._pieces.append(memoryview(data)[at:stop])
                self._missing_bytes -= stop - at
                at = stop
                if not self._missing_bytes:
                    pieces, self._pieces = self._pieces, []
                    yield b"".join(pieces)
                continue
            compressed: int
            length: int
            if self._head or end - at < _HEADER_BYTES:
                stop = min(end, at + _HEADER_BYTES - len(self._head))
                self._head += data[at:stop]
                at = stop
                if len(self._head) < _HEADER_BYTES:
                    return
                compressed, length = _unpack(self._head)
                self._head = b""
            else:
                compressed, length = _unpack(data, at)
                at += _HEADER_BYTES
            if compressed or length > limits.GRPC_MESSAGE_MAX_BYTES:
                raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a compressed or too large message")
            if at + length <= end:
                yield data[at : at + length]
                at += length
            else:
                self._missing_bytes = length
