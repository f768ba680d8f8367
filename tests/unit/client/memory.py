"""In-memory, thread-free doubles of the client's transports, and the peers behind them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cairnfs.base.errors import CairnError
from cairnfs.client.interface import Holdings
from cairnfs.client.waiting import Bell
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

Out = TypeVar("Out")
In = TypeVar("In")


class MemoryStream(Generic[Out, In]):
    """A stream whose peer is called at once for every item sent, and answers with `deliver`."""

    def __init__(self, on_item: Callable[["MemoryStream[Out, In]", Out], None], *, reachable: bool) -> None:
        self._on_item = on_item
        self._inbox: list[In] = []
        self._bell = Bell()
        self._error: CairnError | None = None
        self.sent: list[Out] = []
        if not reachable:
            self.break_off("connection refused")

    @property
    def alive(self) -> bool:
        """Whether items still pass."""
        return self._error is None

    def send(self, item: Out) -> None:
        if self._error is None:
            self.sent.append(item)
            self._on_item(self, item)

    async def receive(self) -> list[In]:
        while not self._inbox:
            if self._error is not None:
                raise self._error
            await self._bell.wait()
        batch, self._inbox = self._inbox, []
        return batch

    def finish(self) -> None:
        self.break_off("ended by the peer")

    def close(self) -> None:
        self.break_off("closed")

    def deliver(self, item: In) -> None:
        """The peer sends `item`."""
        if self._error is None:
            self._inbox.append(item)
            self._bell.ring()

    def break_off(self, detail: str) -> None:
        """The stream ends; what was delivered can still be received."""
        self._error = self._error or CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, detail)
        self._bell.ring()


CoordinatorStream = MemoryStream[pb.ClientMessage, pb.ServerMessage]


def event_message(*events: pb.Event) -> pb.ServerMessage:
    """A message with these events."""
    return pb.ServerMessage(events=events)


@dataclass
class FakeCoordinator:
    """Records what it is told and answers at once, unless told to hold its answers.

    Executes each (session, seq) once and repeats the recorded reply, as the real one does.
    """

    lease_ms: int = 10_000
    reachable: bool = True
    silent: bool = False  # receives and never answers
    hold: bool = False  # keeps replies until `release`
    lose_replies: bool = False  # executes, but the replies get lost
    refusal: pb.SessionEnd | None = None
    incarnation: int = 1
    cluster_map: common_pb2.ClusterMap = field(default_factory=common_pb2.ClusterMap)
    sessions: set[str] = field(default_factory=set[str])
    executed: list[tuple[str, int, str]] = field(default_factory=list[tuple[str, int, str]])
    messages: list[pb.ClientMessage] = field(default_factory=list[pb.ClientMessage])
    records: dict[tuple[str, int], pb.Reply] = field(default_factory=dict[tuple[str, int], pb.Reply])
    held: deque[tuple[CoordinatorStream, pb.Reply]] = field(
        default_factory=deque[tuple[CoordinatorStream, pb.Reply]]
    )
    stream: CoordinatorStream | None = None
    _session_id: str = ""
    _made: int = 0

    def accept(self) -> CoordinatorStream:
        """A new stream from a client."""
        stream = CoordinatorStream(self._on_message, reachable=self.reachable)
        if self.reachable:
            self.stream = stream
        return stream

    def send(self, event: pb.Event) -> None:
        """Send one event on the newest stream."""
        assert self.stream is not None
        self.stream.deliver(event_message(event))

    def break_stream(self) -> None:
        """Cut the newest stream."""
        assert self.stream is not None
        self.stream.break_off("cut by the test")

    def release(self) -> None:
        """Send every reply held back, in one message."""
        replies = [pb.Event(reply=reply) for _, reply in self.held]
        self.held.clear()
        assert self.stream is not None
        self.stream.deliver(event_message(*replies))

    def hellos(self) -> list[pb.Hello]:
        """Every Hello received."""
        return [message.hello for message in self.messages if message.HasField("hello")]

    def batches(self) -> list[list[int]]:
        """The numbers of the requests of each message that has some."""
        return [
            [request.seq for request in message.requests] for message in self.messages if message.requests
        ]

    def _on_message(self, stream: CoordinatorStream, message: pb.ClientMessage) -> None:
        self.messages.append(pb.ClientMessage.FromString(message.SerializeToString()))
        if self.silent:
            return
        if message.HasField("hello"):
            self._greet(stream, message.hello)
        elif not message.requests and not message.recalls_done and not message.goodbye:
            stream.deliver(event_message(pb.Event(heartbeat=pb.Heartbeat())))
        replies = [self._run(request) for request in message.requests]
        if self.hold:
            self.held.extend((stream, reply) for reply in replies)
        elif replies and not self.lose_replies:
            stream.deliver(event_message(*(pb.Event(reply=reply) for reply in replies)))

    def _greet(self, stream: CoordinatorStream, hello: pb.Hello) -> None:
        if self.refusal is not None:
            stream.deliver(event_message(pb.Event(end=self.refusal)))
            return
        resumed = hello.session_id in self.sessions
        if not resumed:
            self._made += 1
            self.sessions.add(f"session-{self._made}")
        self._session_id = hello.session_id if resumed else f"session-{self._made}"
        welcome = pb.Welcome(
            session_id=self._session_id,
            resumed=resumed,
            incarnation=self.incarnation,
            cluster_id="test-cluster",
            lease_ms=self.lease_ms,
            cluster_map=self.cluster_map,
        )
        stream.deliver(event_message(pb.Event(welcome=welcome)))

    def _run(self, request: pb.Request) -> pb.Reply:
        key = (self._session_id, request.seq)
        if key not in self.records:
            op = request.WhichOneof("op") or ""
            self.executed.append((*key, op))
            reply = pb.Reply(seq=request.seq)
            if op == "lookup" and request.lookup.name == b"absent":
                reply.error = common_pb2.ERROR_CODE_NOT_FOUND
                reply.detail = "no such entry"
            elif op == "get_attr":
                reply.attr.attr.ino = request.get_attr.ino
            self.records[key] = reply
        return self.records[key]


@dataclass
class MemoryMetadataTransport:
    """Dials fake coordinators by address."""

    coordinators: dict[str, FakeCoordinator]
    dialled: list[str] = field(default_factory=list[str])

    def connect(self, address: str) -> CoordinatorStream:
        self.dialled.append(address)
        return self.coordinators[address].accept()


@dataclass
class RecordingListener:
    """Keeps every event in order, as (kind, value)."""

    events: list[tuple[str, object]] = field(default_factory=list[tuple[str, object]])
    held: Holdings = field(default_factory=Holdings)

    def on_reply(self, request: pb.Request, reply: pb.Reply) -> None:
        self.events.append(("reply", request.seq))

    def on_recall(self, recall: pb.Recall) -> None:
        self.events.append(("recall", recall.id))

    def on_welcome(self, welcome: pb.Welcome) -> None:
        self.events.append(("welcome", welcome.resumed))

    def on_doubt(self) -> None:
        self.events.append(("doubt", None))

    def on_trust(self) -> None:
        self.events.append(("trust", None))

    def on_flush(self, number: int) -> None:
        self.events.append(("flush", number))

    def on_notice(self, notice: pb.Notice) -> None:
        self.events.append(("notice", notice.low_space))

    def holdings(self) -> Holdings:
        return self.held

    def kinds(self) -> list[str]:
        """The kinds of all events so far."""
        return [kind for kind, _ in self.events]
