"""One HTTP/2 connection with gRPC calls, seen from either end: bytes in, events and bytes out; no I/O.

It does what gRPC needs and no more: no priorities, no push, no compression of what we send. Any gRPC
implementation can be at the other end. What arrives counts as handled when `feed` returns it, so whoever
cannot take more stops reading the connection.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from cairnfs.base import limits
from cairnfs.http2 import frames
from cairnfs.http2.frames import ErrorCode, Field, Flag, FrameType, ProtocolError, Setting
from cairnfs.http2.messages import MessageReader

_HEADER_BYTES: Final = frames.FRAME_HEADER_BYTES
_MESSAGE_HEADER_BYTES: Final = frames.MESSAGE_HEADER_BYTES
# Plain numbers: those of enumerations cost more than all else that is done for a small message.
_DATA: Final = int(FrameType.DATA)
_PADDED: Final = int(Flag.PADDED)
_END_STREAM: Final = int(Flag.END_STREAM)
_CREDIT_BYTES: Final = limits.HTTP2_WINDOW_BYTES // 2
_unpack_frame: Final = frames.FRAME_HEADER.unpack_from
_pack_frame: Final = frames.FRAME_HEADER.pack
_pack_message: Final = frames.MESSAGE_HEADER.pack


@dataclass(slots=True)
class Headers:
    """The header or trailer fields of a call arrived."""

    stream: int
    fields: list[Field]
    is_new: bool = False  # the peer opened the call


@dataclass(slots=True)
class Message:
    """A message of a call arrived."""

    stream: int
    data: bytes


@dataclass(slots=True)
class Ended:
    """The peer sends no more on this call."""

    stream: int


@dataclass(slots=True)
class Reset:
    """The call is over, whatever was under way."""

    stream: int
    code: int


@dataclass(slots=True)
class Unblocked:
    """What a call had to hold back has been sent."""

    stream: int


@dataclass(slots=True)
class GoneAway:
    """The peer takes no more calls on this connection."""

    code: int
    detail: str


@dataclass(slots=True)
class Violated:
    """The peer broke the rules and has been told so: write the output and close."""

    code: int
    detail: str


Buffer = bytes | memoryview
Event = Headers | Message | Ended | Reset | Unblocked | GoneAway | Violated


@dataclass(slots=True)
class _Stream:
    number: int
    window_bytes: int  # that the peer lets us send
    held: deque[Buffer] = field(default_factory=deque[Buffer])  # pieces of messages
    held_bytes: int = 0
    last: bytes | None = None  # the frame that ends our side, sent after what is held
    reader: MessageReader = field(default_factory=MessageReader)
    taken_bytes: int = 0  # received since we gave credit
    ended_here: bool = False
    ended_there: bool = False


class Connection:
    """Frames, flow control and calls of one connection.

    Methods that send append to what `take_output` returns. Sending on a call that is over does nothing.
    """

    def __init__(self, *, is_client: bool) -> None:
        self._is_client = is_client
        self._output: list[Buffer] = []
        self._rest = bytearray()  # of a frame that has not arrived completely
        self._rest_needed_bytes = 0
        self._data_missing_bytes = 0  # of a DATA frame whose first part was handled already
        self._data_stream = 0
        self._data_flags = 0
        self._preface = b"" if is_client else frames.PREFACE  # still expected
        self._decoder = Decoder(max_header_list_size=limits.HTTP2_FIELDS_MAX_BYTES)
        self._block: bytearray | None = None  # header block that goes on in CONTINUATION frames
        self._block_stream = 0
        self._block_ends_stream = False
        self._streams: dict[int, _Stream] = {}
        self._last_stream = 0 if not is_client else -1
        self._window_bytes = frames.WINDOW_DEFAULT_BYTES
        self._stream_window_bytes = frames.WINDOW_DEFAULT_BYTES
        self._frame_bytes = frames.FRAME_DEFAULT_BYTES
        self._taken_bytes = 0
        self._greet()

    def _greet(self) -> None:
        values = {
            Setting.INITIAL_WINDOW_SIZE: limits.HTTP2_WINDOW_BYTES,
            Setting.MAX_FRAME_SIZE: limits.HTTP2_FRAME_MAX_BYTES,
            Setting.MAX_HEADER_LIST_SIZE: limits.HTTP2_FIELDS_MAX_BYTES,
        }
        if self._is_client:
            self._output.append(frames.PREFACE)
            values[Setting.ENABLE_PUSH] = 0
        else:
            values[Setting.MAX_CONCURRENT_STREAMS] = limits.HTTP2_STREAMS_MAX
        self._output.append(frames.settings(values))
        self._output.append(frames.window_update(0, limits.HTTP2_WINDOW_BYTES - frames.WINDOW_DEFAULT_BYTES))

    # ------------------------------------------------------------------ sending

    def take_output(self) -> bytes:
        """Everything to write to the peer now."""
        return b"".join(self.take_buffers())

    def take_buffers(self) -> list[Buffer]:
        """The same in pieces, so that large messages need not be copied."""
        output, self._output = self._output, []
        return output

    def open(self, fields: Iterable[Field]) -> int:
        """Begin a call (client); returns its stream."""
        self._last_stream += 2
        stream = self._last_stream
        self._streams[stream] = _Stream(stream, self._stream_window_bytes)
        self.send_headers(stream, fields)
        return stream

    def send_headers(self, stream: int, fields: Iterable[Field]) -> None:
        """Send header fields, before any message."""
        if stream in self._streams:
            block = frames.encode_fields(fields)
            self._output.append(frames.frame(FrameType.HEADERS, Flag.END_HEADERS, stream, block))

    def send_message(self, stream: int, message: bytes) -> None:
        """Send one message, or as much of it as the peer's windows admit, and the rest when they open."""
        state = self._streams.get(stream)
        if state is None or state.ended_here:
            return
        size = len(message) + _MESSAGE_HEADER_BYTES
        room = min(state.window_bytes, self._window_bytes, self._frame_bytes)
        if size <= room and not state.held_bytes:
            state.window_bytes -= size
            self._window_bytes -= size
            self._output += (_pack_frame(size << 8, 0, stream), _pack_message(0, len(message)), message)
            return
        state.held += (_pack_message(0, len(message)), message)
        state.held_bytes += size
        self._pump(state)

    def finish(self, stream: int, trailers: Iterable[Field] | None = None) -> None:
        """Send no more on this call, after what is held back: with trailers (server) or without (client)."""
        state = self._streams.get(stream)
        if state is None or state.ended_here:
            return
        state.ended_here = True
        if trailers is None:
            state.last = frames.frame(FrameType.DATA, Flag.END_STREAM, stream)
        else:
            flags = Flag.END_STREAM | Flag.END_HEADERS
            state.last = frames.frame(FrameType.HEADERS, flags, stream, frames.encode_fields(trailers))
        self._pump(state)

    def reset(self, stream: int, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """End a call at once, in both directions."""
        if self._streams.pop(stream, None) is not None:
            self._output.append(frames.rst_stream(stream, code))

    def go_away(self, code: ErrorCode, detail: str) -> None:
        """Tell the peer that the connection ends; close it after writing the output."""
        self._output.append(frames.goaway(max(self._last_stream, 0), code, detail))

    def blocked(self, stream: int) -> bool:
        """Whether messages of the call are held back; `Unblocked` comes when they are not any more."""
        state = self._streams.get(stream)
        return state is not None and state.held_bytes > 0

    def _pump(self, state: _Stream) -> bool:
        """Send what the windows admit; whether nothing is held back any more."""
        while state.held_bytes:
            size = min(state.window_bytes, self._window_bytes, self._frame_bytes, state.held_bytes)
            if size <= 0:
                return False
            state.window_bytes -= size
            self._window_bytes -= size
            state.held_bytes -= size
            self._output.append(_pack_frame(size << 8, 0, state.number))
            self._output += _taken_from(state.held, size)
        if state.last is not None:
            self._output.append(state.last)
            state.last = None
            if not self._is_client and not state.ended_there:
                state.ended_there = True  # whatever else the client has to say is not wanted
                self._output.append(frames.rst_stream(state.number, ErrorCode.NO_ERROR))
            self._forget_if_over(state)
        return True

    def _forget_if_over(self, state: _Stream) -> None:
        if state.ended_here and state.ended_there and state.last is None:
            self._streams.pop(state.number, None)

    # ------------------------------------------------------------------ receiving

    def feed(self, data: bytes) -> list[Event]:
        """What these bytes from the peer bring, in order; nothing comes after `Violated`."""
        events: list[Event] = []
        if self._rest:
            self._rest += data
            if len(self._rest) < self._rest_needed_bytes:
                return events
            data = bytes(self._rest)
            self._rest.clear()
        try:
            self._frames(data, events)
        except ProtocolError as error:
            self.go_away(error.code, error.detail)
            events.append(Violated(error.code, error.detail))
        return events

    def _frames(self, data: bytes, events: list[Event]) -> None:
        end = len(data)
        if self._preface:
            at = self._skip_preface(data)
        elif self._data_missing_bytes:
            at = min(self._data_missing_bytes, end)
            self._data_missing_bytes -= at
            self._more_data(data, 0, at, events)
        else:
            at = 0
        needed = _HEADER_BYTES
        while at >= 0 and end - at >= _HEADER_BYTES:
            length_and_kind, flags, stream = _unpack_frame(data, at)
            length = length_and_kind >> 8
            if length > limits.HTTP2_FRAME_MAX_BYTES:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            needed = _HEADER_BYTES + length
            kind = length_and_kind & 0xFF
            if kind == _DATA and not flags & _PADDED and self._block is None:
                self._data_stream, self._data_flags = stream & frames.STREAM_MASK, flags
                stop = min(at + needed, end)
                self._data_missing_bytes = at + needed - stop
                self._more_data(data, at + _HEADER_BYTES, stop, events)
                at = stop
            elif end - at < needed:
                break
            else:
                payload = data[at + _HEADER_BYTES : at + needed]
                at += needed
                self._frame(kind, flags, stream & frames.STREAM_MASK, payload, events)
            needed = _HEADER_BYTES
        if at < end:
            self._rest += data[max(at, 0) :]
            self._rest_needed_bytes = needed

    def _skip_preface(self, data: bytes) -> int:
        """Where the first frame begins; -1 when the preface has not arrived completely."""
        if not self._preface.startswith(data[: len(self._preface)]):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        if len(data) < len(self._preface):
            return -1
        at = len(self._preface)
        self._preface = b""
        return at

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if self._block is not None and (kind != FrameType.CONTINUATION or stream != self._block_stream):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        match kind:
            case FrameType.DATA:
                self._data_stream, self._data_flags = stream, flags
                data = _unpadded(payload)
                self._credit(self._streams.get(stream), len(payload) - len(data))
                self._more_data(data, 0, len(data), events)
            case FrameType.HEADERS:
                self._headers(flags, stream, payload, events)
            case FrameType.CONTINUATION:
                self._continuation(flags, payload, events)
            case FrameType.WINDOW_UPDATE:
                self._window_update(stream, frames.parse_u32(payload) & frames.STREAM_MASK, events)
            case FrameType.SETTINGS:
                if not flags & Flag.ACK:
                    self._settings(payload, events)
            case FrameType.PING:
                if not flags & Flag.ACK:
                    self._output.append(frames.frame(FrameType.PING, Flag.ACK, 0, payload))
            case FrameType.RST_STREAM:
                if self._streams.pop(stream, None) is not None:
                    events.append(Reset(stream, frames.parse_u32(payload)))
            case FrameType.GOAWAY:
                code = frames.parse_u32(payload[4:8])
                events.append(GoneAway(code, payload[8:].decode(errors="replace")))
            case FrameType.PUSH_PROMISE:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "push is not allowed")
            case _:
                pass  # priorities, and what may come with extensions

    # ------------------------------------------------------------------ messages

    def _more_data(self, data: bytes, at: int, end: int, events: list[Event]) -> None:
        """A piece of the present DATA frame, its last one when nothing of the frame is missing."""
        state = self._streams.get(self._data_stream)
        self._credit(state, end - at)
        if state is None or state.ended_there:
            return  # of a call that was just reset or finished
        for message in state.reader.feed(data, at, end):
            events.append(Message(state.number, message))
        if self._data_flags & _END_STREAM and not self._data_missing_bytes:
            self._ended(state, events)

    def _credit(self, state: _Stream | None, size: int) -> None:
        """Let the peer send as much again, when half of what it may has come."""
        self._taken_bytes += size
        if self._taken_bytes >= _CREDIT_BYTES:
            self._output.append(frames.window_update(0, self._taken_bytes))
            self._taken_bytes = 0
        if state is not None:
            state.taken_bytes += size
            if state.taken_bytes >= _CREDIT_BYTES:
                self._output.append(frames.window_update(state.number, state.taken_bytes))
                state.taken_bytes = 0

    def _ended(self, state: _Stream, events: list[Event]) -> None:
        state.ended_there = True
        events.append(Ended(state.number))
        self._forget_if_over(state)

    # ------------------------------------------------------------------ header fields

    def _headers(self, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if flags & Flag.PADDED:
            payload = _unpadded(payload)
        if flags & Flag.PRIORITY:
            payload = payload[5:]
        self._block = bytearray(payload)
        self._block_stream = stream
        self._block_ends_stream = bool(flags & Flag.END_STREAM)
        if flags & Flag.END_HEADERS:
            self._block_complete(events)

    def _continuation(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if self._block is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += payload
        if len(self._block) > limits.HTTP2_FIELDS_MAX_BYTES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many header fields")
        if flags & Flag.END_HEADERS:
            self._block_complete(events)

    def _block_complete(self, events: list[Event]) -> None:
        block, self._block = self._block, None
        assert block is not None
        try:
            fields = [
                (bytes(name), bytes(value)) for name, value in self._decoder.decode(bytes(block), raw=True)
            ]
        except HPACKError as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        stream = self._block_stream
        state = self._streams.get(stream)
        is_new = state is None
        if state is None:
            state = self._opened_there(stream)
            if state is None:
                return
        events.append(Headers(stream, fields, is_new))
        if self._block_ends_stream:
            self._ended(state, events)

    def _opened_there(self, stream: int) -> _Stream | None:
        """The state of a call that the peer opens; None for one that is over or not taken."""
        if self._is_client or stream <= self._last_stream:
            return None
        if stream % 2 == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a client's streams have odd numbers")
        self._last_stream = stream
        if len(self._streams) >= limits.HTTP2_STREAMS_MAX:
            self._output.append(frames.rst_stream(stream, ErrorCode.REFUSED_STREAM))
            return None
        state = self._streams[stream] = _Stream(stream, self._stream_window_bytes)
        return state

    # ------------------------------------------------------------------ flow control of what we send

    def _window_update(self, stream: int, size_bytes: int, events: list[Event]) -> None:
        if stream == 0:
            self._window_bytes = _grown(self._window_bytes, size_bytes)
            self._pump_all(events)
        elif (state := self._streams.get(stream)) is not None:
            state.window_bytes = _grown(state.window_bytes, size_bytes)
            if state.held_bytes and self._pump(state):
                events.append(Unblocked(stream))

    def _settings(self, payload: bytes, events: list[Event]) -> None:
        for number, value in frames.parse_settings(payload):
            if number == Setting.INITIAL_WINDOW_SIZE:
                change = value - self._stream_window_bytes
                self._stream_window_bytes = _grown(0, value)
                for state in self._streams.values():
                    state.window_bytes = _grown(state.window_bytes, change)
            elif number == Setting.MAX_FRAME_SIZE:
                if not frames.FRAME_DEFAULT_BYTES <= value < 1 << 24:
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
                self._frame_bytes = value
        self._output.append(frames.frame(FrameType.SETTINGS, Flag.ACK, 0))
        self._pump_all(events)

    def _pump_all(self, events: list[Event]) -> None:
        for state in list(self._streams.values()):
            if state.held_bytes and self._pump(state):
                events.append(Unblocked(state.number))


def _taken_from(held: deque[Buffer], size: int) -> Iterator[Buffer]:
    """Remove the first `size` bytes, in pieces."""
    while size:
        piece = held.popleft()
        if len(piece) > size:
            view = memoryview(piece)
            held.appendleft(view[size:])
            piece = view[:size]
        size -= len(piece)
        yield piece


def _grown(window_bytes: int, by_bytes: int) -> int:
    window_bytes += by_bytes
    if window_bytes > frames.WINDOW_LIMIT_BYTES:
        raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window larger than allowed")
    return window_bytes


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]
