"""The bulk codec speaks protobuf exactly, in both directions, and survives any input."""

import pytest
from hypothesis import given, settings, strategies as st

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.bulk.codec import ChunkFrame, decode_chunk_data, encode_chunk_data
from cairnfs.rpc.v1 import chunks_pb2 as pb, common_pb2

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
CODES = st.sampled_from(sorted(common_pb2.ErrorCode.values()))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

HEADERS = st.builds(
    pb.ChunkHeader,
    chunk_id=st.binary(max_size=40),
    length=U64,
    replicas=st.lists(U32, max_size=5),
    ticket=st.binary(max_size=200),
    replication_session=TEXT,
    wanted_replicas=U32,
    reader=U32,
)
SHARED = st.builds(pb.SharedRange, buffer=TEXT, position=U64, length=U32)
FRAMES = st.builds(
    ChunkFrame,
    transfer=U64,
    offset=U64,
    data=st.binary(max_size=300),
    crc32c=U32,
    is_final=st.booleans(),
    header=st.none() | HEADERS,
    error=CODES,
    detail=TEXT,
    shared=st.none() | SHARED,
)


def as_protobuf(frame: ChunkFrame) -> pb.ChunkData:
    return pb.ChunkData(
        transfer=frame.transfer,
        offset=frame.offset,
        data=bytes(frame.data),
        crc32c=frame.crc32c,
        is_final=frame.is_final,
        header=frame.header,
        error=frame.error,  # type: ignore[arg-type]  # a plain number
        detail=frame.detail,
        shared=frame.shared,
    )


@given(FRAMES)
def test_emits_the_bytes_that_protobuf_emits(frame: ChunkFrame) -> None:
    assert encode_chunk_data(frame) == as_protobuf(frame).SerializeToString(deterministic=True)


@given(FRAMES)
def test_reads_what_protobuf_emits(frame: ChunkFrame) -> None:
    assert decode_chunk_data(as_protobuf(frame).SerializeToString()) == frame


@given(FRAMES, st.randoms(use_true_random=False))
def test_accepts_fields_in_any_order_and_the_last_wins(frame: ChunkFrame, random: object) -> None:
    message = as_protobuf(frame)
    parts: list[bytes] = []
    for descriptor, value in message.ListFields():
        part = pb.ChunkData()
        if descriptor.name in ("header", "shared"):
            getattr(part, descriptor.name).CopyFrom(value)
        else:
            setattr(part, descriptor.name, value)
        parts.append(part.SerializeToString())
    random.shuffle(parts)  # type: ignore[attr-defined]
    stale = (
        pb.ChunkData(transfer=7, data=b"older").SerializeToString() if frame.data and frame.transfer else b""
    )
    assert decode_chunk_data(stale + b"".join(parts)) == frame


@given(FRAMES)
def test_two_headers_are_merged_as_protobuf_merges_them(frame: ChunkFrame) -> None:
    twice = encode_chunk_data(frame) * 2
    assert as_protobuf(decode_chunk_data(twice)) == pb.ChunkData.FromString(twice)


UNKNOWN = [
    b"\x78\x05",  # field 15, number
    b"\x79" + bytes(8),  # 64 bits
    b"\x7d" + bytes(4),  # 32 bits
    b"\x7a\x03abc",  # bytes
    b"\x0a\x01x",  # `transfer` as bytes: another type, so unknown
    b"\x18\x01",  # `data` as a number
    b"\xf8\xff\xff\xff\x0f\x01",  # largest field number
]


@pytest.mark.parametrize("extra", UNKNOWN)
def test_unknown_fields_are_skipped(extra: bytes) -> None:
    frame = ChunkFrame(9, 65_536, b"payload", 77, True)
    assert decode_chunk_data(extra + encode_chunk_data(frame) + extra) == frame


def test_repeated_numbers_may_be_packed_or_not() -> None:
    packed = pb.ChunkHeader(replicas=[1, 300, 5]).SerializeToString()
    loose = b"\x18\x01\x18\xac\x02\x18\x05"
    for header in (packed, loose):
        frame = decode_chunk_data(b"\x32" + bytes([len(header)]) + header)
        assert frame.header is not None
        assert list(frame.header.replicas) == [1, 300, 5]


def test_a_payload_is_a_view_into_the_message() -> None:
    message = encode_chunk_data(ChunkFrame(1, 0, b"x" * 1000, 5))
    data = decode_chunk_data(message).data
    assert isinstance(data, memoryview)
    assert data.obj is message
    assert data.readonly


@pytest.mark.parametrize(
    "message",
    [
        b"\x08",  # a number is missing
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number of eleven bytes
        b"\x1a\x05abc",  # bytes end early
        b"\x1a\xff\xff\xff\xff\x0fabc",
        b"\x79abc",  # 64 bits end early
        b"\x7da",
        b"\x00\x01",  # field number 0
        b"\x0b\x0c",  # a group
        b"\x0e\x01",  # no such wire type
        b"\x42\x02\xff\xff",  # text that is not UTF-8
        b"\x32\x02\x0a\x05",  # a broken header
        b"\x1a\x81\x80\x40" + bytes(limits.FRAME_MAX_BYTES + 1),  # a payload over the bound
        bytes(limits.GRPC_MESSAGE_MAX_BYTES + 1),
    ],
    ids=lambda message: message[:8].hex(),
)
def test_malformed_messages_are_invalid(message: bytes) -> None:
    with pytest.raises(CairnError) as caught:
        decode_chunk_data(message)
    assert caught.value.code == common_pb2.ERROR_CODE_INVALID


@pytest.mark.parametrize(
    "frame",
    [
        ChunkFrame(-1),
        ChunkFrame(1 << 64),
        ChunkFrame(1, crc32c=1 << 32),
        ChunkFrame(1, data=bytes(limits.FRAME_MAX_BYTES + 1)),
    ],
    ids=["negative", "wide transfer", "wide checksum", "long payload"],
)
def test_what_does_not_fit_is_not_encoded(frame: ChunkFrame) -> None:
    with pytest.raises(CairnError):
        encode_chunk_data(frame)


def accepts(message: bytes) -> ChunkFrame | None:
    try:
        return decode_chunk_data(message)
    except CairnError:
        return None


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_frame_or_invalid(message: bytes) -> None:
    accepts(message)


@settings(max_examples=300, deadline=None)
@given(FRAMES, st.integers(0), st.integers(0, 255))
def test_a_damaged_message_is_read_as_protobuf_reads_it_or_refused(
    frame: ChunkFrame, place: int, value: int
) -> None:
    message = bytearray(encode_chunk_data(frame) or b"\x08\x01")
    message[place % len(message)] = value
    decoded = accepts(bytes(message))
    if decoded is not None and decoded.error in common_pb2.ErrorCode.values():
        theirs = pb.ChunkData.FromString(bytes(message))
        theirs.DiscardUnknownFields()
        ours = as_protobuf(decoded)
        ours.DiscardUnknownFields()
        if theirs.error == ours.error:
            assert ours == theirs
