"""Clients that change directories in their own memory, against one conductor, in an order drawn from a seed.

`Truth` knows the history of every register (an entry of a directory, an attribute of a file): a local change
counts from the moment it is made, another from its commit. No read may return a value older than a change
that had returned before the read began.
"""

import random
from collections.abc import Callable

from cairnfs.coordinator import keys
from cairnfs.coordinator.records import Inode
from cairnfs.engine.interface import Outcome, ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb
from tests.sim.journal_client import NAMES, WRITE, JournalClient
from tests.sim.truth import Register, Truth
from tests.unit.coordinator.harness import ROOT, Cluster

DIRECTORIES = 2


class JournalWorld:
    """Everything, and the dice."""

    def __init__(self, seed: int, clients: int, *, losses: bool) -> None:
        self.rng = random.Random(seed)
        self.losses = losses
        self.truth = Truth()
        self.cluster = Cluster()
        self.cluster.held = True
        self._last = 1_000
        maker = self.cluster.client("maker")
        self.directories = [
            maker.ok(mkdir=pb.MkDir(parent=ROOT, name=b"%d" % number, mode=0o755)).entry.attr.ino
            for number in range(DIRECTORIES)
        ]
        maker.message(goodbye=True)
        self.cluster.settle()
        self.clients: list[JournalClient] = []
        self._observe()
        self.clients = [JournalClient(self, f"client{number}") for number in range(clients)]
        self._busy = (self.clients[0], self.directories[0])

    def unique(self) -> int:
        """A value never used before."""
        self._last += 1
        return self._last

    # ------------------------------------------------------------------ truth

    def _observe(self) -> None:
        """Take in what a commit has changed, except what its maker had changed before in memory."""

        def look(txn: ReadTransaction) -> None:
            for directory in self.directories:
                if any(client.unsettled(directory) for client in self.clients):
                    continue
                for name in NAMES:
                    entry = txn.get(keys.dentry(directory, name))
                    ino = int.from_bytes(entry[:8], "big") if entry else 0
                    self.truth.observe(("entry", b"%d/%s" % (directory, name)), ino)
            for key, value in txn.scan(*keys.inode_range()):
                ino = keys.inode_of(key)
                if not any(client.unsettled(ino) for client in self.clients):
                    self.truth.observe(("attr", ino), Inode.decode(value).atime_ns)

        self.cluster.engine.read(look)

    def changed(self, register: Register, value: int) -> None:
        """A change returned from memory."""
        self.truth.observe(register, value)
        self.truth.changed(register, value)

    def removed(self, register: Register, ino: int) -> None:
        """A removal returned: the absence that followed `ino`."""
        history = self.truth.history[register]
        at = len(history) - 1 - history[::-1].index(ino) + 1
        assert history[at] == 0
        self.truth.returned[register] = max(self.truth.returned.get(register, 0), at)

    # ------------------------------------------------------------------ steps

    def commit_one(self) -> None:
        """Commit some of what waits, each seen by itself, and deliver the outcomes together."""
        cluster = self.cluster
        done: list[tuple[Callable[[Outcome], None], Outcome]] = []
        for _ in range(self.rng.randint(1, len(cluster.commits))):
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
            if client.journal and not client.sent:
                steps.append(client.push)
            if not client.connection:
                steps.append(client.connect)
        return steps

    def deliver(self, client: JournalClient) -> None:
        """A client's oldest message arrives at the coordinator."""
        message = client.to_server.popleft()
        self.cluster.do(self.cluster.conductor.message(client.connection, message))

    def work(self) -> None:
        """Some application does something."""
        # For a while one client works, mostly in one directory; then others come.
        if self.rng.random() < 0.06:
            self._busy = (self.rng.choice(self.clients), self.rng.choice(self.directories))
        client, directory = self._busy
        if self.rng.random() < 0.08:
            client = self.rng.choice(self.clients)
        name = self.rng.choice(NAMES)
        if len(client.waiting) >= 4:
            return
        files = [ino for ino in client.node(directory).entries.values() if ino] or [directory]
        steps: list[Callable[[], None]] = [
            lambda: client.lookup(directory, name),
            lambda: client.lookup(directory, name),
            lambda: client.list(directory),
            lambda: client.make(directory, name),
            lambda: client.make(directory, name),
            lambda: client.remove(directory, name),
            lambda: client.rename(directory, name, self.rng.choice(NAMES)),
            lambda: client.chattr(self.rng.choice(files)),
            lambda: client.stat(self.rng.choice(files)),
            lambda: client.rename(directory, name, self.rng.choice(NAMES)),
            lambda: client.upgrade(directory),
            lambda: client.upgrade(directory),
            client.reserve,
        ]
        # What needs no answer goes fast.
        for _ in range(self.rng.randint(1, 4) if client.node(directory).lease == WRITE else 1):
            self.rng.choice(steps)()

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
        """Whoever has applied all its events believes in no lease that is not recorded."""
        leases = self.cluster.conductor.context.leases
        for client in self.clients:
            if client.welcomed and not client.inbox and not client.removing:
                for ino, node in client.nodes.items():
                    if not node.removed and not client.unsettled(ino):
                        assert node.lease <= leases.kind(client.session_id, ino), (client.name, ino)

    def run(self, steps: int) -> None:
        """Take `steps` random steps, then let everything come to rest."""
        for _ in range(steps):
            # Nobody is fenced without a tick; but directories may change hands again only after some time.
            if not self.cluster.conductor.context.sessions.recovering:
                self.cluster.clock.advance(10.0)
            enabled = self.enabled()
            draw = self.rng.random()
            if self.losses and draw < 0.004:
                self.lose()
            elif enabled and draw < 0.7:
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
            assert client.settled == client.last
