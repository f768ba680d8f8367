"""Encodes and decodes `ChunkData` of chunks.proto by hand, so that a payload is copied at most once.

The wire form is exactly protobuf's: any gRPC client can talk to us. Only the envelope is made by hand;
the small nested `ChunkHeader` and `SharedRange` go through protobuf. Pass no (de)serializer to gRPC for these
messages, and call these functions on the bytes.
"""

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

Buffer = bytes | bytearray | memoryview

# Tags: (field number << 3) | wire type. All fit into one byte.
_TRANSFER: Final = 0x08
_OFFSET: Final = 0x10
_DATA: Final = 0x1A
_CRC32C: Final = 0x20
_IS_FINAL: Final = 0x28
_HEADER: Final = 0x32
_ERROR: Final = 0x38
_DETAIL: Final = 0x42
_SHARED: Final = 0x4A

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5

_U32: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1
_FIELD_NUMBER_MAX: Final = (1 << 29) - 1
_VARINT_MAX_BYTES: Final = 10
_EMPTY: Final = memoryview(b"")


@dataclass(slots=True)
class ChunkFrame:
    """One `ChunkData` message.

    `data` of a decoded frame is a read-only view into the message it came in, and keeps that alive.
    `crc32c` is what the sender claims; nobody has checked it yet.
    """

    transfer: int
    offset: int = 0
    data: Buffer = _EMPTY
    crc32c: int = 0
    is_final: bool = False
    header: chunks_pb2.ChunkHeader | None = None
    error: int = 0
    detail: str = ""
    shared: chunks_pb2.SharedRange | None = None


def encode_chunk_data(frame: ChunkFrame) -> bytes:
    """The message for `frame`, fields in order of their numbers and defaults left out, as protobuf does.

    Raises CairnError INVALID for a payload over FRAME_MAX_BYTES or a number outside of its field's range.
    """
    data = frame.data
    if len(data) > limits.FRAME_MAX_BYTES:
        raise _invalid(f"payload of {len(data)} bytes exceeds a frame")
    head = bytearray()
    _put_uint(head, _TRANSFER, frame.transfer, _U64)
    _put_uint(head, _OFFSET, frame.offset, _U64)
    if data:
        _put_uint(head, _DATA, len(data), _U32)
    tail = bytearray()
    _put_uint(tail, _CRC32C, frame.crc32c, _U32)
    if frame.is_final:
        tail += b"\x28\x01"
    if frame.header is not None:
        _put_bytes(tail, _HEADER, frame.header.SerializeToString())
    _put_uint(tail, _ERROR, frame.error, _U32)
    if frame.detail:
        _put_bytes(tail, _DETAIL, frame.detail.encode())
    if frame.shared is not None:
        _put_bytes(tail, _SHARED, frame.shared.SerializeToString())
    return b"".join((head, data, tail))


def decode_chunk_data(message: bytes) -> ChunkFrame:
    """The frame in `message`; fields in any order, the last of several wins, unknown ones are skipped.

    Raises CairnError INVALID when the message is malformed (groups, which proto3 does not have, included)
    or longer than limits.GRPC_MESSAGE_MAX_BYTES, or its payload longer than FRAME_MAX_BYTES.
    """
    if len(message) > limits.GRPC_MESSAGE_MAX_BYTES:
        raise _invalid(f"message of {len(message)} bytes is too long")
    try:
        return _decode(memoryview(message).toreadonly())
    except IndexError:
        raise _invalid("message ends inside a field") from None
    except (DecodeError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from None


def _decode(view: memoryview) -> ChunkFrame:
    frame = ChunkFrame(0)
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, at = _varint(view, at)
            _set_number(frame, tag, value)
        elif wire_type == _LENGTH:
            size, start = _varint(view, at)
            at = start + size
            if at > end:
                raise IndexError
            _set_bytes(frame, tag, view[start:at])
        else:
            at = _skip_fixed(at, wire_type)
            if at > end:
                raise IndexError
        if not 0 < tag >> 3 <= _FIELD_NUMBER_MAX:
            raise _invalid(f"impossible field number {tag >> 3}")
    return frame


def _set_number(frame: ChunkFrame, tag: int, value: int) -> None:
    if tag == _TRANSFER:
        frame.transfer = value
    elif tag == _OFFSET:
        frame.offset = value
    elif tag == _CRC32C:
        frame.crc32c = value & _U32
    elif tag == _IS_FINAL:
        frame.is_final = value != 0
    elif tag == _ERROR:
        value &= _U32
        # An unknown code of a newer sender is still an error; a negative one is nobody's.
        frame.error = value if value < 1 << 31 else common_pb2.ERROR_CODE_INTERNAL


def _set_bytes(frame: ChunkFrame, tag: int, value: memoryview) -> None:
    if tag == _DATA:
        if len(value) > limits.FRAME_MAX_BYTES:
            raise _invalid(f"payload of {len(value)} bytes exceeds a frame")
        frame.data = value
    elif tag == _HEADER:
        if frame.header is None:
            frame.header = chunks_pb2.ChunkHeader()
        frame.header.MergeFromString(bytes(value))
    elif tag == _DETAIL:
        frame.detail = str(value, "utf-8")
    elif tag == _SHARED:
        if frame.shared is None:
            frame.shared = chunks_pb2.SharedRange()
        frame.shared.MergeFromString(bytes(value))


def _skip_fixed(at: int, wire_type: int) -> int:
    if wire_type == _FIXED64:
        return at + 8
    if wire_type == _FIXED32:
        return at + 4
    raise _invalid(f"wire type {wire_type}")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number at `at` (64 bits are kept) and where the next thing starts; IndexError at the end."""
    byte = view[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    for position in range(at + 1, at + _VARINT_MAX_BYTES):
        byte = view[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, position + 1
        shift += 7
    raise _invalid("number of more than ten bytes")


def _put_uint(out: bytearray, tag: int, value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise _invalid(f"{value} does not fit into its field")
    if value:
        out.append(tag)
        _put_varint(out, value)


def _put_bytes(out: bytearray, tag: int, value: bytes) -> None:
    out.append(tag)
    _put_varint(out, len(value))
    out += value


def _put_varint(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _invalid(detail: str) -> CairnError:
    return CairnError(common_pb2.ERROR_CODE_INVALID, f"chunk frame: {detail}")
