"""The client's side of one session as a state machine: (state, event, now) -> effects, no I/O.

docs/internals/sessions-and-leases.md explains the protocol. `now` is always in seconds of one clock
that never goes backwards.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.client.cluster import ClusterView
from cairnfs.client.interface import Holdings
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

# Requests whose repetition in a new session is harmless: they change nothing that lasts.
_REPEATABLE: Final = frozenset(
    {
        "lookup", "get_attr", "readlink", "readdir", "statfs", "get_xattr", "list_xattr",
        "get_extents", "plan_write", "get_lock", "report_replica",
    }
)  # fmt: skip
# Requests that mean something only in the session that granted the lease, the open or the lock.
_BOUND_TO_SESSION: Final = frozenset({"commit_write", "replace_extents", "release", "cancel_lock"})
_BATCH_MAX_BYTES: Final = limits.GRPC_MESSAGE_MAX_BYTES // 2


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the client says it is; see `Hello`."""

    host_id: str
    client_version: str = ""
    subdir: str = "/"
    read_only: bool = False
    description: str = ""


@dataclass(slots=True, eq=False)
class Pending:
    """A request whose reply has not arrived; `waiter` belongs to the caller, None when it has gone."""

    request: pb.Request
    waiter: Any = None
    expires_s: float = float("inf")  # by the caller's clock
    sent_s: float | None = None

    @property
    def op(self) -> str:
        """The name of the operation, as in `Request.op`."""
        return self.request.WhichOneof("op") or ""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The session is connected (again)."""

    welcome: pb.Welcome


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply arrived."""

    pending: Pending
    reply: pb.Reply


@dataclass(frozen=True, slots=True)
class Failed:
    """A request ended without a reply: its session is gone and its fate unknown."""

    pending: Pending
    error: CairnError


@dataclass(frozen=True, slots=True)
class Recalled:
    """Leases must go."""

    recall: pb.Recall


@dataclass(frozen=True, slots=True)
class FlushAsked:
    """All that is unsent now is to be saved."""

    number: int


@dataclass(frozen=True, slots=True)
class Noticed:
    """A hint arrived."""

    notice: pb.Notice


@dataclass(frozen=True, slots=True)
class Doubted:
    """Nothing may be answered from caches any more."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """The same session is in contact again."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream is of no use any more; drop it and connect again."""

    error: CairnError


Effect = Welcomed | Answered | Failed | Recalled | FlushAsked | Noticed | Doubted | Trusted | Broken


@dataclass(slots=True)
class _Stream:
    """What is known of the present stream."""

    hello_sent_s: float
    established: bool = False
    heartbeat_sent_s: float | None = None  # of the one that is unanswered
    last_event_s: float = float("-inf")

    @property
    def silent_since_s(self) -> float:
        """Since when an answer has been due (infinite when none is)."""
        if self.heartbeat_sent_s is None:
            return float("inf")
        return max(self.heartbeat_sent_s, self.last_event_s)


@dataclass(slots=True)
class SessionCore:
    """Numbers, batches and remembers requests, and knows how far the caches may be trusted."""

    identity: Identity
    session_id: str = ""
    cluster_id: str = ""
    incarnation: int = 0
    lease_s: float = limits.LEASE_S
    cluster: ClusterView = field(default_factory=ClusterView)
    contact_s: float = float("-inf")  # when the last message was sent that has been answered
    doubted: bool = False
    _next_seq: int = 1
    _again: deque[Pending] = field(default_factory=deque[Pending])  # numbered, not yet sent on this stream
    _fresh: deque[Pending] = field(default_factory=deque[Pending])  # never sent, without a number
    _outstanding: dict[int, Pending] = field(default_factory=dict[int, Pending])  # numbered, in order
    _flushed: list[pb.Flushed] = field(default_factory=list[pb.Flushed])
    _recalls_open: set[int] = field(default_factory=set[int])
    _recalls_done: list[pb.RecallDone] = field(default_factory=list[pb.RecallDone])
    _recalls_sent: deque[tuple[float, pb.RecallDone]] = field(
        default_factory=deque[tuple[float, pb.RecallDone]]
    )
    _hello: pb.Hello | None = None
    _stream: _Stream | None = None

    # -------------------------------------------------------------- derived

    @property
    def established(self) -> bool:
        """Whether requests can be sent now."""
        return self._stream is not None and self._stream.established

    @property
    def idle(self) -> bool:
        """Whether no numbered request is unanswered."""
        return not self._outstanding

    @property
    def doubt_s(self) -> float:
        """Seconds without contact after which caches are not trusted."""
        return self.lease_s / 2

    @property
    def heartbeat_s(self) -> float:
        """Seconds without other traffic after which an empty message is due."""
        return min(limits.SESSION_HEARTBEAT_S, self.lease_s / 10)

    @property
    def silence_s(self) -> float:
        """Seconds that a heartbeat may stay unanswered before the stream is given up."""
        return self.lease_s * (limits.SESSION_SILENCE_S / limits.LEASE_S)

    @property
    def acknowledged_seq(self) -> int:
        """Every reply up to this number has arrived."""
        first = next(iter(self._outstanding), None)
        return self._next_seq - 1 if first is None else first - 1

    @property
    def load(self) -> int:
        """Requests that are queued or unanswered."""
        return len(self._outstanding) + len(self._fresh)

    def trusted(self, now: float) -> bool:
        """Whether caches may be used at this moment, whether or not `tick` has run in time."""
        return self.session_id != "" and now - self.contact_s < self.doubt_s

    # -------------------------------------------------------------- what the caller asks for

    def submit(self, request: pb.Request, waiter: Any = None, expires_s: float = float("inf")) -> Pending:
        """Queue a request (without number). The caller keeps below SESSION_OUTSTANDING_MAX."""
        pending = Pending(request, waiter, expires_s)
        self._fresh.append(pending)
        return pending

    def abandon(self, pending: Pending) -> None:
        """Nobody waits any more. A request that was never sent is forgotten; its number was not given yet."""
        pending.waiter = None
        if pending.request.seq == 0 and pending in self._fresh:
            self._fresh.remove(pending)

    def recall_done(self, done: pb.RecallDone) -> None:
        """Queue the answer to a recall; one of an earlier coordinator or session is dropped."""
        if done.id in self._recalls_open:
            self._recalls_open.discard(done.id)
            self._recalls_done.append(done)

    def flush_done(self, flushed: pb.Flushed) -> None:
        """Queue the answer to a Flush. If it is lost with its stream, the coordinator asks again."""
        self._flushed.append(flushed)

    # -------------------------------------------------------------- the stream comes and goes

    def connected(self, holdings: Holdings, now: float) -> None:
        """A new stream is open; `take_message` gives its Hello first."""
        self._stream = _Stream(hello_sent_s=now)
        self._hello = pb.Hello(
            session_id=self.session_id,
            host_id=self.identity.host_id,
            client_version=self.identity.client_version,
            subdir=self.identity.subdir,
            read_only=self.identity.read_only,
            description=self.identity.description,
            incarnation=self.incarnation,
            cluster_id=self.cluster_id,
            acknowledged_seq=self.acknowledged_seq,
        )
        if self.session_id:
            self._hello.read_leases.extend(holdings.read_leases)
            self._hello.write_leases.extend(holdings.write_leases)
            self._hello.open_inodes.extend(holdings.open_inodes)
            self._hello.open_for_write.extend(holdings.open_for_write)
            self._hello.locks.extend(holdings.locks)

    def disconnected(self) -> None:
        """The stream is gone; what was sent on it and not answered will be sent again."""
        self._stream = None
        self._hello = None
        self._again.clear()
        self._flushed.clear()

    def take_message(self, now: float) -> pb.ClientMessage | None:
        """The next message to send, or None. Call until None."""
        stream = self._stream
        if stream is None:
            return None
        if self._hello is not None:
            hello, self._hello = self._hello, None
            stream.hello_sent_s = now
            return pb.ClientMessage(hello=hello)
        if not stream.established:
            return None
        if self._again or self._fresh or self._recalls_done or self._flushed:
            return self._batch(now)
        if stream.heartbeat_sent_s is None and now >= self.contact_s + self.heartbeat_s:
            stream.heartbeat_sent_s = now
            return pb.ClientMessage(acknowledged_seq=self.acknowledged_seq)
        return None

    def _batch(self, now: float) -> pb.ClientMessage:
        message = pb.ClientMessage()
        size_bytes = 0
        while len(message.requests) < limits.REQUESTS_PER_MESSAGE_MAX:
            queue = self._again or self._fresh
            if not queue:
                break
            pending = queue[0]
            size_bytes += pending.request.ByteSize()
            if size_bytes > _BATCH_MAX_BYTES and message.requests:
                break
            queue.popleft()
            if pending.request.seq == 0:
                pending.request.seq = self._next_seq
                self._next_seq += 1
                self._outstanding[pending.request.seq] = pending
            pending.sent_s = now
            message.requests.append(pending.request)
        for done in self._recalls_done:
            message.recalls_done.append(done)
            self._recalls_sent.append((now, done))
        self._recalls_done.clear()
        message.flushed.extend(self._flushed)
        self._flushed.clear()
        message.acknowledged_seq = self.acknowledged_seq
        return message

    # -------------------------------------------------------------- what arrives

    def receive(self, event: pb.Event, now: float) -> list[Effect]:
        """Apply one event of the present stream."""
        effects: list[Effect] = []
        if self._stream is None:
            return effects
        self._stream.last_event_s = now
        match event.WhichOneof("kind"):
            case "reply":
                self._reply(event.reply, now, effects)
            case "recall":
                self._recalls_open.add(event.recall.id)
                effects.append(Recalled(event.recall))
            case "flush":
                effects.append(FlushAsked(event.flush.id))
            case "heartbeat":
                sent_s, self._stream.heartbeat_sent_s = self._stream.heartbeat_sent_s, None
                if sent_s is not None:
                    self._heard(sent_s, now, effects)
            case "welcome":
                self._welcome(event.welcome, self._stream, effects)
            case "node_update":
                self.cluster.apply(event.node_update)
            case "cluster_map":
                self.cluster.replace(event.cluster_map)
            case "notice":
                effects.append(Noticed(event.notice))
            case "end":
                self._end(event.end, effects)
            case _:
                pass  # a newer coordinator's event that an older client may ignore
        return effects

    def _reply(self, reply: pb.Reply, now: float, effects: list[Effect]) -> None:
        pending = self._outstanding.pop(reply.seq, None)
        if pending is None:
            return  # answered before the stream broke, and again after
        if pending.sent_s is not None:
            self._heard(pending.sent_s, now, effects)
        effects.append(Answered(pending, reply))

    def _heard(self, sent_s: float, now: float, effects: list[Effect]) -> None:
        if sent_s <= self.contact_s:
            return
        self.contact_s = sent_s
        while self._recalls_sent and self._recalls_sent[0][0] <= sent_s:
            self._recalls_sent.popleft()
        if self.doubted and self.trusted(now):
            self.doubted = False
            effects.append(Trusted())

    def _welcome(self, welcome: pb.Welcome, stream: _Stream, effects: list[Effect]) -> None:
        resumed = welcome.resumed and welcome.session_id == self.session_id
        same_coordinator = resumed and welcome.incarnation == self.incarnation
        stream.established = True
        self.session_id = welcome.session_id
        self.cluster_id = welcome.cluster_id
        self.incarnation = welcome.incarnation
        self.lease_s = welcome.lease_ms / 1000 if welcome.lease_ms else limits.LEASE_S
        self.contact_s = stream.hello_sent_s
        self.doubted = False
        self.cluster.replace(welcome.cluster_map)
        if same_coordinator:
            self._recalls_done[:0] = [done for _, done in self._recalls_sent]
        else:
            self._recalls_open.clear()
            self._recalls_done.clear()
        self._recalls_sent.clear()
        effects.append(Welcomed(welcome))
        if resumed:
            self._again.extend(self._outstanding.values())
        else:
            self._start_over(effects)

    def _start_over(self, effects: list[Effect]) -> None:
        """Sort the requests of a session that has ended: repeat those that may be, fail the others."""
        lost = CairnError(common_pb2.ERROR_CODE_SESSION_FENCED, "the session ended before the reply arrived")
        sent, fresh = self._outstanding, self._fresh
        self._outstanding, self._fresh = {}, deque()
        self._next_seq = 1
        for pending in sent.values():
            if pending.op not in _REPEATABLE:
                effects.append(Failed(pending, lost))
            elif pending.waiter is not None:
                pending.request.seq = 0
                self._fresh.append(pending)
        for pending in fresh:
            if pending.op in _BOUND_TO_SESSION:
                effects.append(Failed(pending, lost))
            else:
                self._fresh.append(pending)

    def _end(self, end: pb.SessionEnd, effects: list[Effect]) -> None:
        error = CairnError(end.code, end.message or "the coordinator ended the session")
        if end.code == common_pb2.ERROR_CODE_SESSION_FENCED:
            self.contact_s = float("-inf")
            self._doubt(effects)
        effects.append(Broken(error))

    def _doubt(self, effects: list[Effect]) -> None:
        if self.session_id and not self.doubted:
            self.doubted = True
            effects.append(Doubted())

    # -------------------------------------------------------------- time

    def tick(self, now: float) -> list[Effect]:
        """What the passing of time brings; call at `next_tick` at the latest."""
        effects: list[Effect] = []
        if not self.trusted(now):
            self._doubt(effects)
        stream = self._stream
        if stream is None:
            return effects
        if not stream.established:
            if now - stream.hello_sent_s >= limits.WELCOME_DEADLINE_S:
                effects.append(Broken(_unavailable("no welcome within the deadline")))
        elif now - stream.silent_since_s >= self.silence_s:
            effects.append(Broken(_unavailable(f"silent for {self.silence_s:g} s")))
        return effects

    def next_tick(self) -> float:
        """When `tick` and then `take_message` have something to do if nothing else happens."""
        times = [] if self.doubted or not self.session_id else [self.contact_s + self.doubt_s]
        if (stream := self._stream) is not None:
            if not stream.established:
                times.append(stream.hello_sent_s + limits.WELCOME_DEADLINE_S)
            elif stream.heartbeat_sent_s is None:
                times.append(self.contact_s + self.heartbeat_s)
            else:
                times.append(stream.silent_since_s + self.silence_s)
        return min(times, default=float("inf"))

    def unanswered(self) -> Sequence[Pending]:
        """Every request without a reply, in order."""
        return [*self._outstanding.values(), *self._fresh]


def _unavailable(detail: str) -> CairnError:
    return CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, detail)
