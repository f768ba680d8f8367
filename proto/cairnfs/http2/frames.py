"""The frames of HTTP/2 (RFC 9113) as gRPC uses them: numbers, and how each is made."""

import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum, IntFlag
from typing import Final

Field = tuple[bytes, bytes]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER: Final = struct.Struct(">IBI")  # length and type in the first word, flags, stream
FRAME_HEADER_BYTES: Final = FRAME_HEADER.size
MESSAGE_HEADER: Final = struct.Struct(">BI")  # gRPC, in front of each message: compressed, length
MESSAGE_HEADER_BYTES: Final = MESSAGE_HEADER.size

# What a peer may be sent before its SETTINGS have come.
WINDOW_DEFAULT_BYTES: Final = 65_535
FRAME_DEFAULT_BYTES: Final = 16_384
WINDOW_LIMIT_BYTES: Final = (1 << 31) - 1
STREAM_MASK: Final = (1 << 31) - 1

_U32: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_PREFIXED_MAX: Final = 0x7F


class FrameType(IntEnum):
    """What a frame is; others are ignored."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """What flags mean that we look at."""

    ACK = 0x1  # of SETTINGS and PING
    END_STREAM = 0x1  # of DATA and HEADERS
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    """Settings that we send or look at."""

    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ProtocolError(Exception):
    """The peer broke the rules; `code` is what to tell it."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def frame(kind: FrameType, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(values: Mapping[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(FrameType.SETTINGS, 0, 0, b"".join(_SETTING.pack(*value) for value in values.items()))


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Numbers and values, in order."""
    if len(payload) % _SETTING.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
    return [(number, value) for number, value in _SETTING.iter_unpack(payload)]


def window_update(stream: int, size_bytes: int) -> bytes:
    """Lets the peer send `size_bytes` more on `stream`, or on the connection (0)."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream, _U32.pack(size_bytes))


def parse_u32(payload: bytes) -> int:
    """The payload of RST_STREAM and WINDOW_UPDATE."""
    if len(payload) != _U32.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a frame of a wrong size")
    return int(_U32.unpack(payload)[0])


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """Ends a stream at once."""
    return frame(FrameType.RST_STREAM, 0, stream, _U32.pack(code))


def goaway(last_stream: int, code: ErrorCode, detail: str) -> bytes:
    """Says that the connection ends, and why."""
    return frame(FrameType.GOAWAY, 0, 0, _U32.pack(last_stream) + _U32.pack(code) + detail.encode())


def encode_fields(fields: Iterable[Field]) -> bytes:
    """A header block that leaves the peer's tables alone: literals, not indexed, not compressed."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(text: bytes) -> bytes:
    length = len(text)
    if length < _PREFIXED_MAX:
        return bytes((length,)) + text
    parts = bytearray((_PREFIXED_MAX,))
    length -= _PREFIXED_MAX
    while length > 0x7F:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    parts.append(length)
    return bytes(parts) + text
