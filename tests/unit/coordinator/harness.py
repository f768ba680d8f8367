"""A conductor over the memory engine, driven step by step; clients that answer recalls when told to."""

from collections import deque
from collections.abc import Callable
from typing import Any

from cairnfs.base.clock import Clock, ManualClock
from cairnfs.coordinator.conductor import Commit, Conductor, Config, Effects
from cairnfs.coordinator.namespace.ids import IdAllocator, reserve_inode_numbers
from cairnfs.coordinator.namespace.mkfs import format_file_system
from cairnfs.coordinator.namespace.operation import OperationSpec
from cairnfs.coordinator.namespace.registry import OPERATIONS
from cairnfs.coordinator.sessions import next_incarnation
from cairnfs.engine.interface import Engine, Operation
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

ROOT = 1
CALLER = pb.Caller(uid=0, gid=0, umask=0o022)
LEASE_S = 10.0


class Client:
    """One client: keeps what it is sent, answers nothing by itself."""

    def __init__(self, cluster: "Cluster", name: str, **hello: Any) -> None:
        self.cluster = cluster
        self.name = name
        self.connection = 0
        self.session_id = ""
        self.seq = 0
        self.acknowledged = 0
        self.replies: dict[int, pb.Reply] = {}
        self.recalls: deque[pb.Recall] = deque()
        self.events: list[pb.Event] = []
        self.welcome: pb.Welcome | None = None
        self.end: pb.SessionEnd | None = None
        self.on_event: Callable[[pb.Event], None] = lambda _event: None
        self.connect(**hello)

    def connect(self, **hello: Any) -> None:
        """Open a connection and say Hello."""
        self.connection = self.cluster.new_connection(self)
        message = pb.Hello(session_id=self.session_id, subdir="/", description=self.name, **hello)
        self.cluster.do(self.cluster.conductor.connect(self.connection, message))

    def disconnect(self) -> None:
        """Lose the connection."""
        self.cluster.clients.pop(self.connection, None)
        self.cluster.do(self.cluster.conductor.disconnect(self.connection))

    def take(self, events: list[pb.Event]) -> None:
        """Take the events of one message."""
        for event in events:
            self.receive(event)

    def receive(self, event: pb.Event) -> None:
        """Take one event."""
        self.events.append(event)
        match event.WhichOneof("kind"):
            case "welcome":
                self.welcome = event.welcome
                self.session_id = event.welcome.session_id
            case "reply":
                self.replies[event.reply.seq] = event.reply
            case "recall":
                self.recalls.append(event.recall)
            case "end":
                self.end = event.end
            case _:
                pass
        self.on_event(event)

    def message(self, **fields: Any) -> None:
        """Send one message."""
        message = pb.ClientMessage(acknowledged_seq=self.acknowledged, **fields)
        self.cluster.do(self.cluster.conductor.message(self.connection, message))

    def send(self, seq: int = 0, caller: pb.Caller = CALLER, **op: Any) -> int:
        """Send one request (again, when `seq` is given); returns its number."""
        if not seq:
            self.seq += 1
            seq = self.seq
        self.message(requests=[pb.Request(seq=seq, caller=caller, **op)])
        return seq

    def call(self, **op: Any) -> pb.Reply:
        """Send one request that must be answered at once, with any outcome."""
        seq = self.send(**op)
        self.cluster.settle()
        assert seq in self.replies, f"request {op} of {self.name} waits"
        return self.replies[seq]

    def ok(self, **op: Any) -> pb.Reply:
        """Send one request that must succeed at once."""
        reply = self.call(**op)
        assert reply.error == common.ERROR_CODE_OK, f"{op}: {reply}"
        return reply

    def answer(self, *, still_open: tuple[int, ...] = (), writing: tuple[int, ...] = ()) -> pb.Recall:
        """Answer the oldest recall."""
        recall = self.recalls.popleft()
        done = pb.RecallDone(id=recall.id, still_open=still_open, open_for_write=writing)
        self.message(recalls_done=[done])
        return recall

    def create(self, name: bytes, parent: int = ROOT) -> int:
        """Make and open a file; returns its inode."""
        reply = self.ok(mknod=pb.MkNod(parent=parent, name=name, mode=0o100644, open=True))
        return reply.entry.attr.ino


class Cluster:
    """One conductor, its engine and its clients. Commits wait for `settle` when `held`."""

    def __init__(
        self,
        engine: Engine | None = None,
        registry: dict[str, OperationSpec] | None = None,
        seen_as: Callable[[Clock], Clock] = lambda clock: clock,
    ) -> None:
        self.clock = ManualClock()
        self._seen_clock = seen_as(self.clock)
        self.engine = engine or MemoryEngine()
        self.registry = registry or OPERATIONS
        self.clients: dict[int, Client] = {}
        self.commits: deque[Commit] = deque()
        self.held = False
        self.closed: list[int] = []
        self._connections = 0
        self._start()

    def _one(self, body: Callable[..., Any]) -> Any:
        (outcome,) = self.engine.commit([Operation(body)])
        assert outcome.error is None, outcome.error
        return outcome.value

    def _start(self) -> None:
        self._one(lambda txn: format_file_system(txn, "cluster", 0))
        numbers = IdAllocator()
        numbers.add(self._one(reserve_inode_numbers))
        config = Config("cluster", self._one(next_incarnation), lease_s=LEASE_S)
        self.conductor = Conductor(
            config,
            self._seen_clock,
            self.registry,
            self.engine.read,
            numbers,
            common.ClusterMap,
            self.engine.snapshot,
        )
        self.do(self.conductor.start())

    def restart(self) -> None:
        """The coordinator dies and another takes over its engine."""
        self.commits.clear()
        self.clients.clear()
        self.conductor.trees.close()  # its views end with it
        self._start()

    def new_connection(self, client: Client) -> int:
        """A number for a new connection of `client`."""
        self._connections += 1
        self.clients[self._connections] = client
        return self._connections

    def client(self, name: str, **hello: Any) -> Client:
        """A new client with a session."""
        client = Client(self, name, **hello)
        self.settle()
        return client

    def do(self, effects: Effects) -> None:
        """Carry out the effects of one step."""
        self.commits.extend(effects.commits)
        for connection, events in effects.sends.items():
            client = self.clients.get(connection)
            if client is not None:
                client.take(list(pb.ServerMessage(events=events).events))
        self.closed.extend(effects.closes)
        if not self.held:
            self.settle()

    def commit_all(self) -> None:
        """Commit what waits, as one group, and deliver the outcomes."""
        batch = list(self.commits)
        self.commits.clear()
        outcomes = self.engine.commit([commit.operation for commit in batch])
        self.do(
            self.conductor.committed(
                [(commit.token, outcome) for commit, outcome in zip(batch, outcomes, strict=True)]
            )
        )

    def settle(self) -> None:
        """Commit until nothing waits to be committed."""
        while self.commits:
            self.commit_all()

    def advance(self, seconds: float) -> None:
        """Let time pass, with a tick at the end."""
        self.clock.advance(seconds)
        self.do(self.conductor.tick())

    def heartbeats(self, seconds: float, *clients: Client) -> None:
        """Let time pass while only `clients` are heard."""
        for _ in range(int(seconds)):
            for client in clients:
                client.message()
            self.advance(1.0)
