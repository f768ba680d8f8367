"""Clients that change directories in their own memory, one step at a time.

Each keeps to the rules of docs/internals/leases.md and checks all that it reads.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.sim.truth import Register, Truth
from tests.unit.coordinator.harness import CALLER, Cluster

NONE, READ, WRITE = pb.LEASE_KIND_NONE, pb.LEASE_KIND_READ, pb.LEASE_KIND_WRITE
OK = common.ERROR_CODE_OK
NAMES = (b"x", b"y", b"z")
BATCH_ENTRIES = 3


class World(Protocol):
    """What clients see of their surroundings."""

    cluster: Cluster
    truth: Truth
    rng: random.Random
    directories: list[int]

    def unique(self) -> int: ...
    def changed(self, register: Register, value: int) -> None: ...
    def removed(self, register: Register, ino: int) -> None: ...


class Node:
    """What a client knows of one inode; `entries` of a directory, 0 for an absent one."""

    def __init__(self, lease: int = NONE) -> None:
        self.lease = lease
        self.attr: int | None = None
        self.entries: dict[bytes, int] = {}
        self.last_entry = 0  # of the journal, that touches it
        self.changing = 0  # requests under way that change it
        self.removed = False  # by this client


class JournalClient:
    """One mount that makes changes under WRITE leases, with a lossy connection to the conductor."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.nodes: dict[int, Node] = {}
        self.numbers: deque[int] = deque()
        self.journal: deque[tuple[int, pb.BatchEntry]] = deque()
        self.sent: list[tuple[int, pb.BatchEntry]] = []
        self.last = self.settled = 0
        self.session_id = ""
        self.connection = 0
        self.welcomed = False
        self.incarnation = 0
        self.seq = 0
        self.waiting: dict[int, tuple[pb.Request, Callable[[pb.Reply], None]]] = {}
        self.to_server: deque[pb.ClientMessage] = deque()
        self.inbox: deque[list[pb.Event]] = deque()
        self.recalls: dict[int, int] = {}  # recall -> the entry to be settled first

    def node(self, ino: int) -> Node:
        """What is known of an inode."""
        return self.nodes.setdefault(ino, Node())

    def unsettled(self, ino: int) -> bool:
        """Whether the journal holds a change of it."""
        return ino in self.nodes and self.nodes[ino].last_entry > self.settled

    @property
    def removing(self) -> bool:
        """Whether a request is under way that may remove what this client has a lease on."""
        return any(self.node(directory).changing for directory in self.world.directories)

    # ------------------------------------------------------------------ connection

    def connect(self) -> None:
        """Say Hello, with what is held."""
        self.connection = self.world.cluster.new_connection(self)  # type: ignore[arg-type]
        hello = pb.Hello(session_id=self.session_id, incarnation=self.incarnation)
        for ino, node in self.nodes.items():
            if node.removed and not self.unsettled(ino):
                continue
            if node.lease == WRITE:
                hello.write_leases.append(ino)
            elif node.lease == READ:
                hello.read_leases.append(ino)
        self.world.cluster.do(self.world.cluster.conductor.connect(self.connection, hello))

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
        for ino in (*welcome.lost_write_leases, *welcome.lost_read_leases):
            node = self.nodes[ino]
            assert node.removed or self.removing, "only what a removal whose reply was lost has taken along"
            node.lease = NONE
            node.attr = None
        if welcome.incarnation != self.incarnation:
            self.recalls.clear()
        self.session_id = welcome.session_id
        self.incarnation = welcome.incarnation
        self.welcomed = True
        for request, _ in self.waiting.values():
            self.to_server.append(pb.ClientMessage(requests=[request]))

    def _recall(self, recall: pb.Recall) -> None:
        last = 0
        for item in recall.items:
            node = self.node(item.ino)
            last = max(last, node.last_entry)
            if item.names:
                for name in item.names:
                    node.entries.pop(name, None)
                node.attr = None
            elif item.attributes_only:
                node.attr = None
            else:
                node.lease = min(node.lease, item.keep)
                if node.lease == NONE:
                    node.attr = None
                    node.entries.clear()
        self.recalls[recall.id] = last

    def answerable(self) -> list[int]:
        """Recalls whose changes are settled."""
        if not self.welcomed:
            return []
        return [recall for recall, last in self.recalls.items() if last <= self.settled]

    def answer(self, recall: int) -> None:
        """Send RecallDone."""
        del self.recalls[recall]
        done = pb.RecallDone(id=recall)
        self.to_server.append(pb.ClientMessage(recalls_done=[done], acknowledged_seq=self.acknowledged))

    # ------------------------------------------------------------------ the journal

    def push(self) -> None:
        """Send a batch, if none is unanswered."""
        if self.sent or not self.journal:
            return
        count = self.world.rng.randint(1, min(BATCH_ENTRIES, len(self.journal)))
        self.sent = [self.journal.popleft() for _ in range(count)]

        def done(reply: pb.Reply) -> None:
            assert reply.error == OK, reply
            assert reply.batch.executed == len(self.sent)
            assert not [result for result in reply.batch.results if result.error], (reply, self.sent)
            self.settled = self.sent[-1][0]
            self.sent = []

        self.call(done, batch=pb.Batch(entries=[entry for _, entry in self.sent]))

    def _record(self, *touches: int, new: int = 0, **op: Any) -> None:
        self.last += 1
        entry = pb.BatchEntry(caller=CALLER, now_ns=1, new_ino=new, touches=touches, **op)
        for ino in (*touches, new) if new else touches:
            self.node(ino).last_entry = self.last
        self.journal.append((self.last, entry))

    def _writable(self, *inos: int) -> bool:
        """Whether all of them may be changed in memory."""
        return all(self.node(ino).lease == WRITE and not self.node(ino).changing for ino in inos)

    # ------------------------------------------------------------------ what applications do

    def reserve(self) -> None:
        """Get more inode numbers."""

        def done(reply: pb.Reply) -> None:
            first = reply.reserve_inodes.first
            self.numbers.extend(range(first, first + reply.reserve_inodes.count))

        if not self.numbers:
            self.call(done, reserve_inodes=pb.ReserveInodes(count=64))

    def upgrade(self, directory: int) -> None:
        """Ask for the WRITE lease on a directory and its files."""
        node = self.node(directory)
        if node.lease != READ:
            return
        children = [ino for ino in node.entries.values() if ino and self.node(ino).lease == READ]

        def done(reply: pb.Reply) -> None:
            if reply.upgrade.granted:
                for ino in (directory, *reply.upgrade.children):
                    self.node(ino).lease = WRITE

        self.call(done, upgrade=pb.Upgrade(directory=directory, children=children))

    def lookup(self, directory: int, name: bytes) -> None:
        """Read a directory entry."""
        truth, register = self.world.truth, ("entry", b"%d/%s" % (directory, name))
        floor = truth.floor(register, self.name)
        node = self.node(directory)
        if node.lease != NONE and name in node.entries:
            truth.check(register, floor, node.entries[name])
            return
        if self.unsettled(directory):
            return

        def done(reply: pb.Reply) -> None:
            found = reply.entry.attr.ino if reply.error == OK else 0
            if self.unsettled(directory):
                return
            truth.check(register, floor, found)
            if reply.entry.parent_leased:
                node.lease = max(node.lease, READ)
                node.entries[name] = found
            if found:
                self._learn(reply.entry.attr, reply.entry.lease)

        self.call(done, lookup=pb.Lookup(parent=directory, name=name))

    def _learn(self, attr: common.Attr, lease: int) -> None:
        node = self.node(attr.ino)
        if not self.unsettled(attr.ino) and lease != NONE:
            node.lease = max(node.lease, lease)
            node.attr = attr.atime_ns

    def list(self, directory: int) -> None:
        """Read all entries."""
        truth = self.world.truth
        registers = {name: ("entry", b"%d/%s" % (directory, name)) for name in NAMES}
        floors = {name: truth.floor(register, self.name) for name, register in registers.items()}
        if self.unsettled(directory):
            return

        def done(reply: pb.Reply) -> None:
            assert reply.error == OK, reply
            if self.unsettled(directory):
                return
            found = {entry.name: entry.attr.ino for entry in reply.readdir.entries}
            for name, register in registers.items():
                truth.check(register, floors[name], found.get(name, 0))
            if reply.readdir.leased:
                node = self.node(directory)
                node.lease = max(node.lease, READ)
                node.entries.update({name: found.get(name, 0) for name in NAMES})
            for entry in reply.readdir.entries:
                self._learn(entry.attr, entry.lease)

        self.call(done, readdir=pb.ReadDir(ino=directory))

    def make(self, directory: int, name: bytes) -> None:
        """Make a file, in memory if that is allowed."""
        node = self.node(directory)
        if self._writable(directory) and node.entries.get(name) == 0 and self.numbers:
            ino = self.numbers.popleft()
            self.nodes[ino] = Node(WRITE)
            node.entries[name] = ino
            self._record(directory, new=ino, mknod=pb.MkNod(parent=directory, name=name, mode=0o100644))
            self.world.changed(("entry", b"%d/%s" % (directory, name)), ino)
            return
        if self.unsettled(directory):
            return
        node.changing += 1

        def done(reply: pb.Reply) -> None:
            node.changing -= 1
            if reply.error == OK:
                self.world.truth.changed(("entry", b"%d/%s" % (directory, name)), reply.entry.attr.ino)
                self._learn_entry(reply.entry.parent_leased, directory, name, reply.entry.attr.ino)
                self._learn(reply.entry.attr, reply.entry.lease)

        self.call(done, mknod=pb.MkNod(parent=directory, name=name, mode=0o100644, exclusive=True))

    def _learn_entry(self, leased: bool, directory: int, name: bytes, ino: int) -> None:
        node = self.node(directory)
        if leased:
            node.lease = max(node.lease, READ)
        if node.lease != NONE:
            node.entries[name] = ino

    def remove(self, directory: int, name: bytes) -> None:
        """Remove a file, in memory if that is allowed."""
        node = self.node(directory)
        ino = node.entries.get(name, 0)
        if node.lease == NONE or not ino:
            return
        if self._writable(directory, ino):
            node.entries[name] = 0
            self.node(ino).removed = True
            self._record(directory, ino, unlink=pb.Unlink(parent=directory, name=name))
            self.world.changed(("entry", b"%d/%s" % (directory, name)), 0)
            return
        if self.unsettled(directory) or self.unsettled(ino):
            return
        node.changing += 1
        self.node(ino).changing += 1

        def done(reply: pb.Reply) -> None:
            node.changing -= 1
            self.node(ino).changing -= 1
            if reply.error == OK:
                self.world.removed(("entry", b"%d/%s" % (directory, name)), reply.remove.attr.ino)
                self.node(reply.remove.attr.ino).removed = True
                if node.lease != NONE:
                    node.entries[name] = 0

        self.call(done, unlink=pb.Unlink(parent=directory, name=name))

    def rename(self, directory: int, name: bytes, new_name: bytes) -> None:
        """Rename a file over another or to a free name, in memory."""
        node = self.node(directory)
        ino, replaced = node.entries.get(name, 0), node.entries.get(new_name)
        if name == new_name or not ino or replaced is None or not self._writable(directory, ino):
            return
        if replaced and not self._writable(replaced):
            return
        node.entries[name], node.entries[new_name] = 0, ino
        if replaced:
            self.node(replaced).removed = True
        touches = (directory, ino, replaced) if replaced else (directory, ino)
        op = pb.Rename(parent=directory, name=name, new_parent=directory, new_name=new_name)
        self._record(*touches, rename=op)
        self.world.changed(("entry", b"%d/%s" % (directory, new_name)), ino)
        self.world.changed(("entry", b"%d/%s" % (directory, name)), 0)

    def chattr(self, ino: int) -> None:
        """Change the attribute register of a file, in memory if that is allowed."""
        node, value = self.node(ino), self.world.unique()
        if node.removed:
            return  # nobody has it open
        if self._writable(ino):
            node.attr = value
            self._record(ino, set_attr=pb.SetAttr(ino=ino, atime_ns=value))
            self.world.changed(("attr", ino), value)
            return
        if self.unsettled(ino):
            return
        node.changing += 1

        def done(reply: pb.Reply) -> None:
            node.changing -= 1
            if reply.error == OK:
                self.world.truth.changed(("attr", ino), value)
                if reply.attr.lease == NONE:
                    node.attr = None
                self._learn(reply.attr.attr, reply.attr.lease)

        self.call(done, set_attr=pb.SetAttr(ino=ino, atime_ns=value))

    def stat(self, ino: int) -> None:
        """Read the attribute register of a file."""
        truth, register, node = self.world.truth, ("attr", ino), self.node(ino)
        if register not in truth.history:
            return
        floor = truth.floor(register, self.name)
        if node.lease != NONE and node.attr is not None:
            truth.check(register, floor, node.attr)
            return
        if self.unsettled(ino):
            return

        def done(reply: pb.Reply) -> None:
            if reply.error == OK and not self.unsettled(ino):
                truth.check(register, floor, reply.attr.attr.atime_ns)
                self._learn(reply.attr.attr, reply.attr.lease)

        self.call(done, get_attr=pb.GetAttr(ino=ino))
