"""How fast one coordinator is without its network: batched and single changes, look-ups, listings, memory.

    python -m bench.coordinator_rates DIRECTORY [--sessions 8] [--fill 10000 1000000]

The conductor, the group commit and the SQLite engine run in this process, fed with serialized messages as the
network would; replies are serialized. Prints for each kind of work how many were done per second by the clock
and per second of CPU time of all threads. With `--fill`, look-ups, listings and creates are measured beside
so many files, and in a directory of so many. DIRECTORY must be empty, on the disk in question.
"""

import argparse
import queue
import random
import resource
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from cairnfs.base.clock import SystemClock
from cairnfs.base.limits import JOURNAL_BATCH_ENTRIES, READDIR_LIMIT_MAX, ROOT_INO
from cairnfs.base.logs import configure_logging
from cairnfs.coordinator import keys
from cairnfs.coordinator.conductor import Conductor, Config, Effects
from cairnfs.coordinator.leases import LeaseTable
from cairnfs.coordinator.namespace.ids import IdAllocator, reserve_inode_numbers
from cairnfs.coordinator.namespace.mkfs import format_file_system
from cairnfs.coordinator.namespace.registry import OPERATIONS
from cairnfs.coordinator.records import Dentry, Inode
from cairnfs.coordinator.sessions import next_incarnation
from cairnfs.engine.committer import Committer, Done
from cairnfs.engine.interface import Engine, Operation, Outcome, Transaction
from cairnfs.engine.open import open_engine
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

CALLER = pb.Caller(uid=1_000, gid=1_000, umask=0o022)
REPLY_TAG = 0x12  # how a serialized Event with a reply begins
PATIENCE_S = 60.0
OUTSTANDING = 32  # single requests of one session under way
PER_MESSAGE = 8
FILES_PER_DIRECTORY = 1_000
REMOVALS_PER_BATCH = 150  # as many as one transaction takes
FILL_AT_ONCE = 400
FILL_STEPS_PER_COMMIT = 25

Delivery = list[tuple[Done, Outcome]]


class Station:
    """A coordinator without a network: conductor, committer and engine."""

    def __init__(self, directory: Path) -> None:
        self.engine = open_engine("sqlite", directory)
        numbers = IdAllocator()
        outcomes = self.engine.commit(
            [
                Operation(lambda txn: format_file_system(txn, "bench", 0)),
                Operation(next_incarnation),
                Operation(reserve_inode_numbers),
            ]
        )
        numbers.add(outcomes[2].value)
        config = Config("bench", outcomes[1].value, lease_s=3_600.0)
        self._delivered: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._committer = Committer(self.engine, self._delivered.put)
        self.conductor = Conductor(
            config,
            SystemClock(),
            OPERATIONS,
            self.engine.read,
            numbers,
            common.ClusterMap,
            self.engine.snapshot,
        )
        self.sessions: dict[int, Session] = {}
        self.do(self.conductor.start())

    def do(self, effects: Effects) -> None:
        """What the driver does with effects."""
        for commit in effects.commits:
            self._committer.submit(commit.operation, commit.token)
        for connection, events in effects.sends.items():
            self.sessions[connection].received([event.SerializeToString() for event in events])

    def deliver(self) -> None:
        """Wait for the next group commit, and tell the conductor."""
        self.do(self.conductor.committed(self._delivered.get(timeout=PATIENCE_S)))

    def send(self, connection: int, data: bytes) -> None:
        """A message arrives."""
        self.do(self.conductor.message(connection, pb.ClientMessage.FromString(data)))

    def close(self) -> None:
        """Finish."""
        self._committer.close()
        self.engine.close()


class Session:
    """One client, which counts its replies; events are not looked into while something is measured."""

    def __init__(self, station: Station, connection: int) -> None:
        self.station = station
        self.connection = connection
        self.seq = 0
        self.waiting = 0
        self.last: list[bytes] = []
        station.sessions[connection] = self
        station.do(station.conductor.connect(connection, pb.Hello(description="bench")))
        station.deliver()
        self.root = self.directory(ROOT_INO, b"session%d" % random.getrandbits(64))

    def received(self, events: list[bytes]) -> None:
        """Events arrived."""
        replies = [event for event in events if event[0] == REPLY_TAG]
        self.waiting -= len(replies)
        self.last = replies or self.last

    def pack(self, requests: list[pb.Request]) -> bytes:
        """A message with requests, and an acknowledgement of all before them."""
        message = pb.ClientMessage(acknowledged_seq=self.seq)
        for request in requests:
            self.seq += 1
            request.seq = self.seq
            request.caller.CopyFrom(CALLER)
            message.requests.append(request)
        return message.SerializeToString()

    def call(self, request: pb.Request) -> pb.Reply:
        """Send one request and wait; the other sessions give up what stands in its way."""
        self.waiting = 1
        self.station.send(self.connection, self.pack([request]))
        while self.waiting:
            for other in list(self.station.sessions.values()):
                if other is not self:
                    other.answer_recalls()
            if self.waiting:
                self.station.deliver()
        return pb.Event.FromString(self.last[-1]).reply

    def directory(self, parent: int, name: bytes) -> int:
        """Make a directory, which comes with its WRITE lease."""
        reply = self.call(pb.Request(mkdir=pb.MkDir(parent=parent, name=name, mode=0o755)))
        assert reply.error == 0, reply
        return reply.entry.attr.ino

    def answer_recalls(self) -> None:
        """Give up what is asked for."""
        for recall in self.station.conductor.context.recalls.of_session(self.connection_id):
            done = pb.RecallDone(id=recall.message.id)
            self.station.send(self.connection, pb.ClientMessage(recalls_done=[done]).SerializeToString())

    @property
    def connection_id(self) -> str:
        """The session's id."""
        session = self.station.conductor._connections[self.connection]
        assert session is not None
        return session.id

    def reserve(self) -> Iterator[int]:
        """Inode numbers."""
        while True:
            reply = self.call(pb.Request(reserve_inodes=pb.ReserveInodes(count=4_096))).reserve_inodes
            yield from range(reply.first, reply.first + reply.count)


# ---------------------------------------------------------------------- what is measured


def run(sessions: list[Session], messages: list[list[bytes]], outstanding: int) -> None:
    """Send the prepared messages of each session, until so many of its requests wait for replies."""
    station = sessions[0].station
    left = [iter(one) for one in messages]
    while True:
        idle = True
        for session, mine in zip(sessions, left, strict=True):
            while session.waiting < outstanding and (data := next(mine, None)) is not None:
                session.waiting += len(pb.ClientMessage.FromString(data).requests)
                station.send(session.connection, data)
                idle = False
        if any(session.waiting for session in sessions):
            station.deliver()
        elif idle:
            return


def measure(label: str, count: int, work: Callable[[], object]) -> float:
    """Print the rate of `count` things done by `work`."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    elapsed_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    each_us = cpu_s / count * 1e6
    print(
        f"{label:40} {count / elapsed_s:10,.0f}/s  {count / cpu_s:10,.0f}/CPU s  {each_us:7.1f} us",
        flush=True,
    )
    return elapsed_s


def batches(
    session: Session, count: int, parents: Iterator[int], numbers: Iterator[int], prefix: bytes = b"file"
) -> list[bytes]:
    """Messages with batches that make `count` files of `parents` in turn."""
    entries = []
    for at in range(count):
        parent = next(parents)
        op = pb.MkNod(parent=parent, name=b"%s-%08d" % (prefix, at), mode=0o100644)
        entries.append(entry(parent, new_ino=next(numbers), mknod=op))
    return packed(session, entries)


def entry(*touches: int, **fields: Any) -> pb.BatchEntry:
    """A change of the inodes `touches`."""
    return pb.BatchEntry(caller=CALLER, now_ns=time.time_ns(), touches=touches, **fields)


def packed(
    session: Session, entries: list[pb.BatchEntry], at_once: int = JOURNAL_BATCH_ENTRIES
) -> list[bytes]:
    """Messages with `entries`, in batches of `at_once`."""
    return [
        session.pack([pb.Request(batch=pb.Batch(entries=entries[first : first + at_once]))])
        for first in range(0, len(entries), at_once)
    ]


def batched_creates(sessions: list[Session], count: int) -> None:
    """Make `count` files in every session, in directories of FILES_PER_DIRECTORY."""
    messages = []
    for session in sessions:
        mine = [
            session.directory(session.root, b"d%016x" % random.getrandbits(64))
            for _ in range(max(1, count // FILES_PER_DIRECTORY))
        ]
        parents = (parent for parent in cycle(mine) for _ in range(JOURNAL_BATCH_ENTRIES))
        # A reservation is a request of its own: made before, so that only batches are measured.
        numbers = iter(list(islice(session.reserve(), count)))
        messages.append(batches(session, count, parents, numbers))
    measure("batched creates", count * len(sessions), lambda: run(sessions, messages, 1))


def batched_trees(sessions: list[Session], count: int) -> None:
    """Make `count` directories in every session, each with a small file in it; then remove all of that."""
    steps: dict[str, list[list[bytes]]] = {}
    for session in sessions:
        root = session.directory(session.root, b"t%016x" % random.getrandbits(64))
        numbers = list(islice(session.reserve(), 2 * count))
        pairs = [(b"%08d" % at, *numbers[2 * at : 2 * at + 2]) for at in range(count)]
        entries = {
            "batched mkdir": [
                entry(root, new_ino=inner, mkdir=pb.MkDir(parent=root, name=name, mode=0o755))
                for name, inner, _ in pairs
            ],
            "batched creates, one in each": [
                entry(inner, new_ino=ino, mknod=pb.MkNod(parent=inner, name=b"file", mode=0o100644))
                for _, inner, ino in pairs
            ],
            "batched writes": [entry(ino, commit_write=small_write(ino)) for _, _, ino in pairs],
            "batched unlinks": [
                entry(inner, ino, unlink=pb.Unlink(parent=inner, name=b"file")) for _, inner, ino in pairs
            ],
            "batched rmdirs": [
                entry(root, inner, rmdir=pb.RmDir(parent=root, name=name)) for name, inner, _ in pairs
            ],
        }
        for label, mine in entries.items():
            steps.setdefault(label, []).append(packed(session, mine, REMOVALS_PER_BATCH))
    for label, messages in steps.items():
        measure(label, count * len(sessions), partial(run, sessions, messages, 1))
    for session in sessions:
        failed = pb.Event.FromString(session.last[-1]).reply.batch.results
        assert not failed, f"not all was removed: {failed}"


def small_write(ino: int) -> pb.CommitWrite:
    """Four KiB in a chunk of its own."""
    chunk_id = random.randbytes(32)
    return pb.CommitWrite(
        ino=ino,
        size=4_096,
        chunks=[pb.StoredChunk(chunk_id=chunk_id, length=4_096, nodes=[1, 2])],
        slices=[common.Slice(length=4_096, chunk_id=chunk_id)],
    )


def singles(label: str, sessions: list[Session], requests: list[list[pb.Request]]) -> None:
    """Measure requests sent one by one, some under way at a time."""
    messages = [
        [session.pack(mine[at : at + PER_MESSAGE]) for at in range(0, len(mine), PER_MESSAGE)]
        for session, mine in zip(sessions, requests, strict=True)
    ]
    count = sum(map(len, requests))
    measure(label, count, lambda: run(sessions, messages, OUTSTANDING))


def single_operations(sessions: list[Session], count: int) -> None:
    """Measure the common requests, `count` of each in every session."""
    roots = [session.directory(session.root, b"s%016x" % random.getrandbits(64)) for session in sessions]
    names = [b"single-%06d" % number for number in range(count)]

    def each(label: str, make: Callable[[int, bytes], pb.Request]) -> None:
        singles(label, sessions, [[make(root, name) for name in names] for root in roots])

    each(
        "create",
        lambda root, name: pb.Request(mknod=pb.MkNod(parent=root, name=name, mode=0o100644, open=True)),
    )
    each("lookup", lambda root, name: pb.Request(lookup=pb.Lookup(parent=root, name=name)))
    each("getattr", lambda root, _name: pb.Request(get_attr=pb.GetAttr(ino=root)))
    each("setattr", lambda root, _name: pb.Request(set_attr=pb.SetAttr(ino=root, mode=0o755)))
    each(
        "rename",
        lambda root, name: pb.Request(
            rename=pb.Rename(parent=root, name=name, new_parent=root, new_name=b"r" + name)
        ),
    )
    each("unlink", lambda root, name: pb.Request(unlink=pb.Unlink(parent=root, name=b"r" + name)))
    each("mkdir", lambda root, name: pb.Request(mkdir=pb.MkDir(parent=root, name=name, mode=0o755)))
    each("rmdir", lambda root, name: pb.Request(rmdir=pb.RmDir(parent=root, name=name)))


def fill(engine: Engine, count: int, per_directory: int) -> list[int]:
    """Store `count` files in their places, which takes a fraction of the time of making them."""
    directories = -(-count // per_directory)
    (outcome,) = engine.commit([Operation(lambda txn: reserve_inode_numbers(txn, count + directories))])
    numbers: range = outcome.value
    now_ns = time.time_ns()
    file = Inode(0o100644, 1_000, 1_000, 1, 0, 0, 0, now_ns, now_ns, now_ns, 1, 0, 0, 1)
    directory = file._replace(mode=0o40755, nlink=2, parent=ROOT_INO).encode()
    parents = numbers[:directories]
    for index, parent in enumerate(parents):
        inos = numbers[directories + index * per_directory :][:per_directory]
        steps = [partial(_put, keys.inode(parent), directory)]
        for at in range(0, len(inos), FILL_AT_ONCE):
            steps.append(partial(_fill_step, parent, at, inos[at : at + FILL_AT_ONCE], file.encode()))
        for at in range(0, len(steps), FILL_STEPS_PER_COMMIT):
            engine.commit([Operation(step) for step in steps[at : at + FILL_STEPS_PER_COMMIT]])
    return list(parents)


def _put(key: bytes, value: bytes, txn: Transaction) -> None:
    txn.put(key, value)


def _fill_step(parent: int, first: int, inos: range, value: bytes, txn: Transaction) -> None:
    for number, ino in enumerate(inos, first):
        txn.put(keys.inode(ino), value)
        txn.put(keys.dentry(parent, b"file-%08d" % number), Dentry(ino, 8).encode())


def list_all(session: Session, directory: int) -> int:
    """List a whole directory; returns the number of its entries."""
    after, found = b"", 0
    while True:
        op = pb.ReadDir(ino=directory, after=after, limit=READDIR_LIMIT_MAX)
        reply = session.call(pb.Request(readdir=op)).readdir
        found += len(reply.entries)
        if reply.end:
            return found
        after = reply.entries[-1].name


def at_scale(path: Path, count: int) -> None:
    """Measure beside `count` files in directories of FILES_PER_DIRECTORY, and as many in a single one."""
    station = Station(path)
    try:
        session = Session(station, 1)
        started = time.perf_counter()
        parents = fill(station.engine, count, FILES_PER_DIRECTORY)
        (large,) = fill(station.engine, count, count)
        print(f"2 x {count:,} files stored in {time.perf_counter() - started:,.0f} s", flush=True)

        def lookups(directories: list[int], entries: int) -> list[pb.Request]:
            return [
                pb.Request(
                    lookup=pb.Lookup(
                        parent=random.choice(directories), name=b"file-%08d" % random.randrange(entries)
                    )
                )
                for _ in range(8_000)
            ]

        singles("lookup, small directories", [session], [lookups(parents, FILES_PER_DIRECTORY)])
        singles("lookup, large directory", [session], [lookups([large], count)])
        listed = [random.choice(parents) for _ in range(20)]
        entries = len(listed) * FILES_PER_DIRECTORY
        measure("list, small directories", entries, lambda: [list_all(session, one) for one in listed])
        measure("list, large directory", count, lambda: list_all(session, large))
        # Who has listed a million files is asked to give up leases, the oldest first.
        maker = Session(station, 2)
        for label, directory in (("a new directory", maker.root), ("the large directory", large)):
            assert maker.call(pb.Request(upgrade=pb.Upgrade(directory=directory))).upgrade.granted
            numbers = iter(list(islice(maker.reserve(), 4_096)))
            prepared = [batches(maker, 4_096, cycle([directory]), numbers, b"new")]
            measure(f"batched creates in {label}", 4_096, lambda: run([maker], prepared, 1))  # noqa: B023
    finally:
        station.close()


def lease_memory(count: int = 500_000) -> None:
    """Print what a cached lease costs in memory."""
    for label, grant in (
        ("READ leases", LeaseTable.grant_read),
        ("WRITE leases", LeaseTable.grant_write),
    ):
        tracemalloc.start()
        table = LeaseTable()
        for ino in range(1 << 20, (1 << 20) + count):
            grant(table, "session", ino)
        size_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(f"{label:44} {size_bytes / count:10.0f} bytes each", flush=True)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--files", type=int, default=4_096, help="files each session makes")
    parser.add_argument("--singles", type=int, default=1_000, help="single operations of each session")
    parser.add_argument("--fill", type=int, nargs="*", default=[], help="numbers of files to be beside")
    options = parser.parse_args()
    configure_logging("bench", "warning")
    lease_memory()
    station = Station(options.directory)
    try:
        sessions = [Session(station, number + 1) for number in range(options.sessions)]
        batched_creates(sessions, options.files)
        batched_trees(sessions, options.files // 4)
        single_operations(sessions, options.singles)
    finally:
        station.close()
    for count in options.fill:
        at_scale(options.directory / str(count), count)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
