"""Clients with caches against one conductor: every message, commit and loss in an order drawn from a seed.

Each client keeps what the protocol allows it to keep and reads from it. `Truth` knows the history of every
register (a file's content and one of its attributes, a directory entry): no read may return a value older
than a change that had returned before the read began.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from cairnfs.coordinator import keys
from cairnfs.coordinator.records import Inode
from cairnfs.engine.interface import Outcome, ReadTransaction
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.sim.truth import File, Truth
from tests.unit.coordinator.harness import CALLER, ROOT, Cluster

NONE, READ, WRITE = pb.LEASE_KIND_NONE, pb.LEASE_KIND_READ, pb.LEASE_KIND_WRITE
FILES = 3
NAMES = (b"x", b"y")


class SimClient:
    """One mount's cache, with a lossy connection to the conductor."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.files: dict[int, File] = {}
        self.entries: dict[bytes, int] = {}  # 0: known to be absent
        self.root_leased = False
        self.session_id = ""
        self.incarnation = 0
        self.connection = 0
        self.welcomed = False
        self.seq = 0
        self.waiting: dict[int, tuple[pb.Request, Callable[[pb.Reply], None]]] = {}
        self.to_server: deque[pb.ClientMessage] = deque()
        self.inbox: deque[list[pb.Event]] = deque()
        self.flushing: dict[int, set[int]] = {}  # recall -> inodes to flush first
        self.recalled: dict[int, list[int]] = {}

    # ------------------------------------------------------------------ connection

    def connect(self) -> None:
        """Say Hello, with what is held."""
        world = self.world
        self.connection = world.cluster.new_connection(self)  # type: ignore[arg-type]
        hello = pb.Hello(session_id=self.session_id, incarnation=self.incarnation, subdir="/")
        for ino, file in self.files.items():
            if file.lease == WRITE:
                hello.write_leases.append(ino)
            elif file.lease == READ:
                hello.read_leases.append(ino)
            if file.open:
                file.registered = True
                hello.open_inodes.append(ino)
                hello.open_for_write.append(ino)
        if self.root_leased:
            hello.read_leases.append(ROOT)
        world.cluster.do(world.cluster.conductor.connect(self.connection, hello))

    def disconnect(self, tell: bool = True) -> None:
        """Lose the connection and all that is on it."""
        self.to_server.clear()
        self.inbox.clear()
        self.welcomed = False
        connection, self.connection = self.connection, 0
        self.world.cluster.clients.pop(connection, None)
        if tell:
            self.world.cluster.do(self.world.cluster.conductor.disconnect(connection))

    def take(self, events: list[pb.Event]) -> None:
        """A message is on its way here."""
        self.inbox.append(events)

    def call(self, done: Callable[[pb.Reply], None], **op: Any) -> None:
        """Send a request; `done` gets its reply."""
        self.seq += 1
        request = pb.Request(seq=self.seq, caller=CALLER, **op)
        self.waiting[self.seq] = (request, done)
        if self.welcomed:
            self.to_server.append(pb.ClientMessage(requests=[request], acknowledged_seq=self.acknowledged))

    @property
    def acknowledged(self) -> int:
        """Every reply up to this one arrived."""
        return min(self.waiting, default=self.seq + 1) - 1

    # ------------------------------------------------------------------ events

    def handle(self) -> None:
        """Apply the events of the oldest message that arrived, before anything else happens."""
        for event in self.inbox.popleft():
            self._apply(event)

    def _apply(self, event: pb.Event) -> None:
        match event.WhichOneof("kind"):
            case "welcome":
                self._welcome(event.welcome)
            case "reply":
                waiting = self.waiting.pop(event.reply.seq, None)
                if waiting is not None:
                    waiting[1](event.reply)
            case "recall":
                self._recall(event.recall)
            case "end":
                raise AssertionError(f"{self.name} was ended: {event.end}")
            case _:
                pass

    def _welcome(self, welcome: pb.Welcome) -> None:
        assert welcome.resumed == bool(self.session_id)
        assert not welcome.lost_write_leases
        assert not welcome.lost_read_leases
        if welcome.incarnation != self.incarnation:
            self.flushing.clear()
            self.recalled.clear()
        self.session_id = welcome.session_id
        self.incarnation = welcome.incarnation
        self.welcomed = True
        again = [request for request, _ in self.waiting.values()]
        for start in range(0, len(again), 3):
            self.to_server.append(pb.ClientMessage(requests=again[start : start + 3]))

    def _recall(self, recall: pb.Recall) -> None:
        flushes: set[int] = set()
        for item in recall.items:
            file = self.files.get(item.ino)
            if item.ino == ROOT:
                if item.names:
                    for name in item.names:
                        self.entries.pop(name, None)
                elif not item.attributes_only:
                    self.root_leased = False
                    self.entries.clear()
            elif file is not None:
                if item.attributes_only:
                    file.attr_valid = False
                else:
                    file.drop(item.keep)
                if file.dirty is not None or file.locks_pages:
                    flushes.add(item.ino)
        self.recalled[recall.id] = [item.ino for item in recall.items]
        self.flushing[recall.id] = flushes
        for ino in flushes:
            self._flush(ino)

    def _flush(self, ino: int) -> None:
        file = self.files[ino]
        if file.busy or file.dirty is None:
            return
        file.busy = True
        value = file.dirty

        def done(reply: pb.Reply) -> None:
            assert reply.error == common.ERROR_CODE_OK, reply
            file.busy = False
            file.learn(reply.commit_write.attr, NONE)
            if file.dirty == value:
                file.dirty = None
                self.world.flushed(self, ino, value)
            if file.lease != NONE:
                file.pages = value
            if file.dirty is not None:
                self._flush(ino)

        self.call(done, commit_write=pb.CommitWrite(ino=ino, size=value % 1_000 + 1, mtime_ns=value))

    def answerable(self) -> list[int]:
        """Recalls for which everything is flushed."""
        if not self.welcomed:
            return []
        return [
            recall
            for recall, inos in self.flushing.items()
            if not any(self.files[ino].locks_pages or self.files[ino].dirty is not None for ino in inos)
        ]

    def answer(self, recall: int) -> None:
        """Send RecallDone."""
        del self.flushing[recall]
        opened = [ino for ino in self.recalled.pop(recall) if ino in self.files and self.files[ino].open]
        for ino in opened:
            self.files[ino].registered = True
        done = pb.RecallDone(id=recall, still_open=opened, open_for_write=opened)
        self.to_server.append(pb.ClientMessage(recalls_done=[done], acknowledged_seq=self.acknowledged))

    # ------------------------------------------------------------------ what applications do

    def file(self, ino: int) -> File:
        """What is known of an inode."""
        return self.files.setdefault(ino, File())

    def stat(self, ino: int) -> None:
        """Read the attribute register."""
        truth, register = self.world.truth, ("attr", ino)
        file, floor = self.file(ino), truth.floor(("attr", ino), self.name)
        if file.lease != NONE and file.attr_valid and file.attr is not None:
            truth.check(register, floor, file.attr.atime_ns)
            return

        def done(reply: pb.Reply) -> None:
            assert reply.error == common.ERROR_CODE_OK, reply
            truth.check(register, floor, reply.attr.attr.atime_ns)
            file.learn(reply.attr.attr, reply.attr.lease)

        self.call(done, get_attr=pb.GetAttr(ino=ino))

    def chattr(self, ino: int) -> None:
        """Change the attribute register."""
        value, file = self.world.unique(), self.file(ino)

        def done(reply: pb.Reply) -> None:
            assert reply.error == common.ERROR_CODE_OK, reply
            file.learn(reply.attr.attr, reply.attr.lease)
            self.world.truth.changed(("attr", ino), value)

        self.call(done, set_attr=pb.SetAttr(ino=ino, atime_ns=value))

    def lookup(self, name: bytes) -> None:
        """Read a directory entry."""
        truth, register = self.world.truth, ("entry", name)
        floor = truth.floor(register, self.name)
        if self.root_leased and name in self.entries:
            truth.check(register, floor, self.entries[name])
            return

        def done(reply: pb.Reply) -> None:
            found = reply.entry.attr.ino if reply.error == common.ERROR_CODE_OK else 0
            truth.check(register, floor, found)
            if reply.entry.parent_leased:
                self.root_leased = True
                self.entries[name] = found

        self.call(done, lookup=pb.Lookup(parent=ROOT, name=name))

    def toggle(self, name: bytes) -> None:
        """Make a directory, or remove it."""
        truth, register = self.world.truth, ("entry", name)

        def made(reply: pb.Reply) -> None:
            if reply.error == common.ERROR_CODE_OK:
                truth.changed(register, reply.entry.attr.ino)
                self.root_leased |= reply.entry.parent_leased
                self._learn_entry(name, reply.entry.attr.ino)

        def removed(reply: pb.Reply) -> None:
            if reply.error == common.ERROR_CODE_OK:
                self.world.removed(name, reply.remove.attr.ino)
                self._learn_entry(name, 0)

        if self.world.rng.random() < 0.5:
            self.call(made, mkdir=pb.MkDir(parent=ROOT, name=name, mode=0o755))
        else:
            self.call(removed, rmdir=pb.RmDir(parent=ROOT, name=name))

    def _learn_entry(self, name: bytes, ino: int) -> None:
        if self.root_leased:
            self.entries[name] = ino

    def open(self, ino: int) -> None:
        """Open for writing."""
        file = self.file(ino)
        if file.open or file.busy or file.dirty is not None:
            return
        file.busy = True

        def done(reply: pb.Reply) -> None:
            assert reply.error == common.ERROR_CODE_OK, reply
            file.busy = False
            file.open = True
            file.shared = reply.open.shared
            file.registered |= file.shared
            file.learn(reply.open.attr, reply.open.lease)
            assert file.shared or reply.open.lease == WRITE

        self.call(done, open=pb.Open(ino=ino, write=True))

    def close(self, ino: int) -> None:
        """Close; what is unsent stays under the lease."""
        file = self.file(ino)
        if not file.open or file.busy:
            return
        file.open = False
        if file.registered:
            file.registered = False
            self.call(lambda _reply: None, release=pb.Release(ino=ino))

    def write(self, ino: int) -> None:
        """Change the content register: in memory under a WRITE lease, else through."""
        file = self.file(ino)
        if not file.open or file.busy:
            return
        value = self.world.unique()
        if file.lease == WRITE and not file.shared:
            file.dirty = file.pages = value
            self.world.wrote(self, ino, value)
            return
        if file.dirty is not None:
            return
        file.busy = True
        file.locks_pages = not file.shared

        def done(reply: pb.Reply) -> None:
            assert reply.error == common.ERROR_CODE_OK, reply
            file.busy = file.locks_pages = False
            file.learn(reply.commit_write.attr, NONE)
            if file.lease != NONE:
                file.pages = value
            self.world.truth.changed(("data", ino), value)

        self.call(done, commit_write=pb.CommitWrite(ino=ino, size=value % 1_000 + 1, mtime_ns=value))

    def read(self, ino: int) -> None:
        """Read the content register."""
        truth, register = self.world.truth, ("data", ino)
        file, floor = self.file(ino), truth.floor(("data", ino), self.name)
        if file.dirty is not None:
            return  # one's own unsent write is trivially seen
        if file.lease != NONE and file.pages is not None and not file.shared:
            truth.check(register, floor, file.pages)
            return

        def done(reply: pb.Reply) -> None:
            assert reply.error == common.ERROR_CODE_OK, reply
            value = reply.extents.attr.mtime_ns
            truth.check(register, floor, value)
            file.learn(reply.extents.attr, reply.extents.lease)
            if reply.extents.lease != NONE and file.dirty is None:
                file.pages = value

        self.call(done, get_extents=pb.GetExtents(ino=ino, length=1))


class World:
    """Everything, and the dice."""

    def __init__(self, seed: int, clients: int, *, losses: bool) -> None:
        self.rng = random.Random(seed)
        self.losses = losses
        self.truth = Truth()
        self.cluster = Cluster()
        self.cluster.held = True
        self._last = 1_000
        maker = self.cluster.client("maker")
        self.inos = [maker.create(b"f%d" % number) for number in range(FILES)]
        maker.message(goodbye=True)
        self.cluster.settle()
        self._observe()
        self.clients = [SimClient(self, f"client{number}") for number in range(clients)]

    def unique(self) -> int:
        """A value never used before."""
        self._last += 1
        return self._last

    def _observe(self) -> None:
        def look(txn: ReadTransaction) -> None:
            for ino in self.inos:
                value = txn.get(keys.inode(ino))
                assert value is not None
                inode = Inode.decode(value)
                self.truth.observe(("attr", ino), inode.atime_ns)
                self.truth.observe(("data", ino), inode.mtime_ns)
            for name in NAMES:
                entry = txn.get(keys.dentry(ROOT, name))
                self.truth.observe(("entry", name), int.from_bytes(entry[:8], "big") if entry else 0)

        self.cluster.engine.read(look)

    def wrote(self, client: SimClient, ino: int, value: int) -> None:
        """A write returned from memory."""
        self.truth.unsent.setdefault(("data", ino), {})[client.name] = value

    def flushed(self, client: SimClient, ino: int, value: int) -> None:
        """It is durable now."""
        self.truth.unsent.get(("data", ino), {}).pop(client.name, None)
        self.truth.changed(("data", ino), value)

    def removed(self, name: bytes, ino: int) -> None:
        """A removal returned: the absence that followed `ino`."""
        history = self.truth.history["entry", name]
        register = ("entry", name)
        at = history.index(ino) + 1
        assert history[at] == 0
        self.truth.returned[register] = max(self.truth.returned.get(register, 0), at)

    # ------------------------------------------------------------------ steps

    def commit_one(self) -> None:
        """Commit some of what waits, each seen by itself, and deliver the outcomes together."""
        cluster = self.cluster
        count = self.rng.randint(1, len(cluster.commits))
        done: list[tuple[Callable[[Outcome], None], Outcome]] = []
        for _ in range(count):
            commit = cluster.commits.popleft()
            (outcome,) = cluster.engine.commit([commit.operation])
            self._observe()
            done.append((commit.token, outcome))
        cluster.do(cluster.conductor.committed(done))

    def enabled(self) -> list[Callable[[], None]]:
        """Steps other than new work that can happen now."""
        steps: list[Callable[[], None]] = []
        if self.cluster.commits:
            steps.append(self.commit_one)
        for client in self.clients:
            if client.inbox:
                steps.append(client.handle)
            if client.to_server and client.connection:
                steps.append(lambda client=client: self.deliver(client))  # type: ignore[misc]
            steps.extend(
                lambda client=client, recall=recall: client.answer(recall)  # type: ignore[misc]
                for recall in client.answerable()
            )
            if not client.connection:
                steps.append(client.connect)
        return steps

    def deliver(self, client: SimClient) -> None:
        """A client's oldest message arrives at the coordinator."""
        message = client.to_server.popleft()
        self.cluster.do(self.cluster.conductor.message(client.connection, message))

    def work(self) -> None:
        """Some application does something."""
        client, ino, name = self.rng.choice(self.clients), self.rng.choice(self.inos), self.rng.choice(NAMES)
        if len(client.waiting) >= 6:
            return
        step = self.rng.choice(
            [client.stat, client.chattr, client.open, client.close, client.write, client.write, client.read]
        )
        if self.rng.random() < 0.3:
            self.rng.choice([client.lookup, client.lookup, client.toggle])(name)
        else:
            step(ino)

    def lose(self) -> None:
        """A connection breaks, or the coordinator dies."""
        if self.rng.random() < 0.8:
            client = self.rng.choice(self.clients)
            if client.connection and client.session_id:
                client.disconnect()
        elif all(client.session_id for client in self.clients):
            for client in self.clients:
                client.disconnect(tell=False)
            self.cluster.restart()

    def check_leases(self) -> None:
        """Invariant 2: whoever has applied all its events believes in no lease that is not recorded."""
        leases = self.cluster.conductor.context.leases
        for client in self.clients:
            if client.welcomed and not client.inbox:
                for ino, file in client.files.items():
                    assert file.lease <= leases.kind(client.session_id, ino), (client.name, ino)

    def run(self, steps: int) -> None:
        """Take `steps` random steps, then let everything come to rest."""
        for _ in range(steps):
            enabled = self.enabled()
            draw = self.rng.random()
            if self.losses and draw < 0.004:
                self.lose()
            elif enabled and draw < 0.75:
                self.rng.choice(enabled)()
            else:
                self.work()
            self.check_leases()
        quiet = 0
        while enabled := self.enabled():
            self.rng.choice(enabled)()
            quiet += 1
            assert quiet < 20_000, "it does not come to rest"
        for client in self.clients:
            assert not client.waiting, f"{client.name} waits for {[r for r, _ in client.waiting.values()]}"
