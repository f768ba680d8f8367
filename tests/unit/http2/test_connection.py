"""The two ends of an HTTP/2 connection against each other, and what breaks the rules."""

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from cairnfs.base import limits
from cairnfs.http2 import connection, frames
from cairnfs.http2.calls import Status, path_of, request_fields, response_fields, status_of, trailer_fields
from cairnfs.http2.connection import (
    Connection,
    Ended,
    Event,
    GoneAway,
    Headers,
    Message,
    Reset,
    Unblocked,
    Violated,
)
from cairnfs.http2.frames import ErrorCode, Flag, FrameType, Setting

REQUEST = request_fields("host:1", "/a.B/C")


class Pair:
    """A client and a server that have greeted each other, and one call."""

    def __init__(self) -> None:
        self.client, self.server = Connection(is_client=True), Connection(is_client=False)
        self.call = self.client.open(REQUEST)
        [begun] = self.to_server()
        assert isinstance(begun, Headers)
        assert begun.is_new
        assert path_of(begun.fields) == "/a.B/C"
        assert self.to_client() == []

    def to_server(self) -> list[Event]:
        return self.server.feed(self.client.take_output())

    def to_client(self) -> list[Event]:
        return self.client.feed(self.server.take_output())

    def settle(self) -> tuple[list[Event], list[Event]]:
        """Carry bytes until nothing moves; what arrived at the server and at the client."""
        at_server: list[Event] = []
        at_client: list[Event] = []
        while (there := self.client.take_output()) or (here := self.server.take_output()):
            if there:
                at_server += self.server.feed(there)
            else:
                at_client += self.client.feed(here)
        return at_server, at_client


def data(events: Sequence[Event]) -> list[bytes]:
    """The messages among the events."""
    return [event.data for event in events if isinstance(event, Message)]


def test_a_call_from_its_first_field_to_its_status() -> None:
    pair = Pair()
    pair.client.send_message(pair.call, b"question")
    pair.client.finish(pair.call)
    assert pair.to_server() == [Message(pair.call, b"question"), Ended(pair.call)]
    pair.server.send_headers(pair.call, response_fields())
    pair.server.send_message(pair.call, b"")
    pair.server.finish(pair.call, trailer_fields(Status.NOT_FOUND, "no such thing: ä%"))
    header, message, trailer, ended = pair.to_client()
    assert isinstance(header, Headers)
    assert status_of(header.fields) is None
    assert message == Message(pair.call, b"")
    assert isinstance(trailer, Headers)
    assert status_of(trailer.fields) == (Status.NOT_FOUND, "no such thing: ä%")
    assert ended == Ended(pair.call)
    pair.server.send_message(pair.call, b"too late")
    assert pair.server.take_output() == b""


@given(
    messages=st.lists(st.binary(max_size=300), max_size=8),
    cuts=st.lists(st.integers(min_value=1, max_value=70), min_size=1, max_size=50),
)
def test_messages_arrive_whole_however_the_bytes_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    client, server = Connection(is_client=True), Connection(is_client=False)
    call = client.open(REQUEST)
    for message in messages:
        client.send_message(call, message)
    client.finish(call)
    wire, events = client.take_output(), list[Event]()
    turn = 0
    while wire:
        size = cuts[turn % len(cuts)]
        events += server.feed(wire[:size])
        wire = wire[size:]
        turn += 1
    assert data(events) == messages
    assert events[-1] == Ended(call)


@given(sizes=st.lists(st.integers(min_value=0, max_value=200_000), max_size=8))
def test_frames_stay_below_the_peers_bound_and_messages_may_span_them(sizes: list[int]) -> None:
    pair = Pair()
    small = frames.settings({Setting.MAX_FRAME_SIZE: frames.FRAME_DEFAULT_BYTES})
    pair.client.feed(small)
    for size in sizes:
        pair.client.send_message(pair.call, b"x" * size)
    at_server, _ = pair.settle()
    assert [len(message) for message in data(at_server)] == sizes


def test_a_large_message_is_not_copied_on_its_way_out() -> None:
    pair = Pair()
    pair.client.feed(frames.settings({Setting.MAX_FRAME_SIZE: frames.FRAME_DEFAULT_BYTES}))
    small, large = b"s", bytes(100_000)
    pair.client.send_message(pair.call, small)
    pair.client.send_message(pair.call, large)
    buffers = pair.client.take_buffers()
    assert any(buffer is small for buffer in buffers)
    assert sum(len(buffer) for buffer in buffers if isinstance(buffer, memoryview)) >= len(large)
    assert data(pair.server.feed(b"".join(buffers))) == [small, large]


def test_what_the_window_does_not_admit_is_held_until_it_opens() -> None:
    client = Connection(is_client=True)
    call = client.open(REQUEST)
    client.take_output()
    client.send_message(call, b"x" * frames.WINDOW_DEFAULT_BYTES)
    client.send_message(call, b"y")
    client.finish(call)
    assert client.blocked(call)
    sent = len(client.take_output())
    assert frames.WINDOW_DEFAULT_BYTES < sent < frames.WINDOW_DEFAULT_BYTES + 100
    assert client.feed(frames.window_update(call, 1_000)) == []  # the connection's own is still shut
    assert client.take_output() == b""
    assert client.feed(frames.window_update(0, 1_000)) == [Unblocked(call)]
    assert not client.blocked(call)
    assert client.take_output().endswith(frames.frame(FrameType.DATA, Flag.END_STREAM, call))


def test_a_smaller_first_window_counts_for_calls_that_are_open() -> None:
    client = Connection(is_client=True)
    call = client.open(REQUEST)
    client.send_message(call, b"x" * 995)
    client.feed(frames.settings({Setting.INITIAL_WINDOW_SIZE: 500}))
    client.take_output()
    client.send_message(call, b"y")
    assert client.feed(frames.window_update(call, 500)) == []  # that is not even what was overdrawn
    assert client.feed(frames.window_update(call, 506)) == [Unblocked(call)]


def test_credit_is_given_back_before_the_window_shuts(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    piece = b"x" * 100_000
    monkeypatch.setattr(connection, "_CREDIT_BYTES", 10 * len(piece))
    given: list[int] = []
    for turn in range(25):
        pair.client.send_message(pair.call, piece)
        assert data(pair.to_server()) == [piece]
        if reply := pair.server.take_output():
            given.append(turn)
            assert len(reply) == 2 * len(frames.window_update(1, 1))
            assert pair.client.feed(reply) == []
    assert given == [9, 19]


def test_pings_and_settings_are_acknowledged() -> None:
    server = Pair().server
    server.feed(frames.frame(FrameType.PING, 0, 0, b"12345678") + frames.settings({}))
    assert server.take_output() == (
        frames.frame(FrameType.PING, Flag.ACK, 0, b"12345678") + frames.frame(FrameType.SETTINGS, Flag.ACK, 0)
    )
    server.feed(frames.frame(FrameType.PING, Flag.ACK, 0, b"12345678"))
    assert server.take_output() == b""


def test_either_side_ends_a_call_at_once() -> None:
    pair = Pair()
    pair.client.reset(pair.call)
    assert pair.to_server() == [Reset(pair.call, ErrorCode.CANCEL)]
    pair.client.reset(pair.call)
    assert pair.client.take_output() == b""
    assert pair.server.feed(frames.frame(FrameType.DATA, 0, pair.call, b"late")) == []


def test_an_end_of_the_connection_is_announced() -> None:
    pair = Pair()
    pair.server.go_away(ErrorCode.NO_ERROR, "going down")
    assert pair.to_client() == [GoneAway(ErrorCode.NO_ERROR, "going down")]


def test_fields_may_be_padded_spread_and_compressed() -> None:
    server = Connection(is_client=False)
    block = frames.encode_fields(REQUEST)
    flags = Flag.PADDED | Flag.PRIORITY
    first = frames.frame(FrameType.HEADERS, flags, 1, b"\x03" + bytes(5) + block[:10] + bytes(3))
    rest = frames.frame(FrameType.CONTINUATION, Flag.END_HEADERS, 1, block[10:])
    [begun] = server.feed(frames.PREFACE + first + rest)
    assert begun == Headers(1, list(REQUEST), is_new=True)
    padded = b"\x02" + frames.MESSAGE_HEADER.pack(0, 2) + b"hi" + bytes(2)
    assert server.feed(frames.frame(FrameType.DATA, Flag.PADDED, 1, padded)) == [Message(1, b"hi")]
    huffman = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")  # RFC 7541, C.4.1
    [other] = server.feed(frames.frame(FrameType.HEADERS, Flag.END_HEADERS, 3, huffman))
    assert isinstance(other, Headers)
    assert (b":authority", b"www.example.com") in other.fields
    assert path_of(other.fields) == ""


def test_no_more_calls_are_taken_than_allowed() -> None:
    client, server = Connection(is_client=True), Connection(is_client=False)
    for _ in range(limits.HTTP2_STREAMS_MAX):
        client.open(REQUEST)
    assert len(server.feed(client.take_output())) == limits.HTTP2_STREAMS_MAX
    server.take_output()
    refused = client.open(REQUEST)
    assert server.feed(client.take_output()) == []
    assert client.feed(server.take_output()) == [Reset(refused, ErrorCode.REFUSED_STREAM)]


def _headers(stream: int, block: bytes, flags: int = Flag.END_HEADERS) -> bytes:
    return frames.frame(FrameType.HEADERS, flags, stream, block)


BLOCK = frames.encode_fields(REQUEST)


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frames.FRAME_HEADER.pack(0xFFFFFF << 8, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
        (frames.PREFACE + _headers(1, b"\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (frames.PREFACE + _headers(2, BLOCK), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + _headers(1, BLOCK, 0) + frames.settings({}), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + _headers(1, b"\x09", Flag.PADDED), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frames.frame(FrameType.CONTINUATION, 0, 1, BLOCK), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frames.frame(FrameType.PUSH_PROMISE, 0, 1, BLOCK), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frames.frame(FrameType.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.PREFACE + frames.frame(FrameType.WINDOW_UPDATE, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.PREFACE + frames.window_update(0, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.PREFACE + frames.settings({Setting.MAX_FRAME_SIZE: 1}), ErrorCode.PROTOCOL_ERROR),
        (
            frames.PREFACE + _headers(1, BLOCK) + frames.frame(FrameType.DATA, 0, 1, b"\x01" + bytes(4)),
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
        (
            frames.PREFACE + _headers(1, BLOCK) + frames.frame(FrameType.DATA, 0, 1, b"\x00" + b"\xff" * 4),
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
        (
            frames.PREFACE
            + _headers(1, bytes(20_000), 0)
            + frames.frame(FrameType.CONTINUATION, 0, 1, bytes(20_000)),
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
    ],
)
def test_a_peer_that_breaks_the_rules_is_refused(wire: bytes, code: ErrorCode) -> None:
    server = Connection(is_client=False)
    server.take_output()
    last = server.feed(wire)[-1]
    assert isinstance(last, Violated)
    assert last.code == code
    assert server.take_output().endswith(last.detail.encode())


@given(garbage=st.binary(max_size=200), prefix=st.booleans())
def test_no_garbage_raises_anything(garbage: bytes, prefix: bool) -> None:
    Connection(is_client=False).feed((frames.PREFACE + _headers(1, BLOCK) if prefix else b"") + garbage)


def test_what_came_before_a_violation_still_counts() -> None:
    pair = Pair()
    pair.client.send_message(pair.call, b"good")
    good = frames.MESSAGE_HEADER.pack(0, 4) + b"more"
    too_large = frames.MESSAGE_HEADER.pack(0, (1 << 32) - 1)
    bad = frames.frame(FrameType.DATA, 0, pair.call, good + too_large)
    *messages, end = pair.server.feed(pair.client.take_output() + bad)
    assert data(messages) == [b"good", b"more"]
    assert isinstance(end, Violated)


def test_status_codes_that_nobody_knows_and_answers_that_are_not_grpc() -> None:
    assert status_of([(b"grpc-status", b"99")]) == (Status.UNKNOWN, "")
    assert status_of([(b":status", b"502")]) == (Status.UNKNOWN, "HTTP status 502")
