"""Measures chunks on their way between a client and datanodes: how many per second, and CPU time at each end.

Run it as `python -m bench.datanode_rates [--mib 512] [--datanodes 3] [--replicas 2]`. A coordinator and
datanodes are processes of their own, with data in a scratch directory; the client is in this process, without
FUSE and without caches. Bytes go once through gRPC, and once by shared memory and descriptors of files;
files; between datanodes they always go by shared memory.
"""

import argparse
import contextlib
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio

from bench.listener import NoCaches
from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import host_id
from cairnfs.base.logs import configure_logging
from cairnfs.client.chunks import ChunkClient
from cairnfs.client.grpc_transport import GrpcChunkTransport, GrpcMetadataTransport
from cairnfs.client.session import Session
from cairnfs.client.session_core import Identity
from cairnfs.client.side_socket import dial
from cairnfs.local.processes import Process, start
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

PATIENCE_S = 60.0
SMALL_BYTES = 4_096
STORES_AT_ONCE = 8
SMALL_AT_ONCE = 64
READS_AT_ONCE = 4


@dataclass(slots=True)
class Servers:
    """The processes of a small cluster, by what they are."""

    address: str
    processes: dict[str, Process]

    def cpu_s(self, kind: str) -> float:
        """CPU time that all processes of one kind have used."""
        return sum(_cpu_s(process.pid) for name, process in self.processes.items() if name.startswith(kind))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def servers(directory: Path, datanodes: int, replicas: int) -> Iterator[Servers]:
    """A coordinator and datanodes; at the end they are stopped."""
    children: list[subprocess.Popen[bytes]] = []
    cluster = Servers("", {})

    def run(name: str, *arguments: str) -> None:
        flags = ["--data", str(directory / name), "--listen", "127.0.0.1:0"]
        command = [sys.executable, "-m", "cairnfs.cli", *arguments, *flags]
        starting = start(command, directory / f"{name}.pid", directory / f"{name}.log")
        children.append(starting.child)
        address = starting.wait(PATIENCE_S) or ""
        cluster.processes[name] = starting.process
        cluster.address = cluster.address or address

    try:
        run("coordinator", "coordinator", "--replicas", str(replicas))
        for number in range(datanodes):
            run(
                f"datanode-{number}",
                "datanode",
                "--coordinators",
                cluster.address,
                "--scrub-bytes-per-s",
                "0",
            )
        yield cluster
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(PATIENCE_S)


async def _dial_nobody(_unix_socket: str, /) -> NoReturn:
    raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "to measure RetrieveChunk")


@contextlib.asynccontextmanager
async def client(address: str, *, direct: bool = False) -> AsyncIterator[ChunkClient]:
    """A chunk client of its own session."""
    host = host_id()
    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        identity = Identity(host_id=host, description="bench")
        session = await stack.enter_async_context(
            Session.open(GrpcMetadataTransport(nursery), [address], identity, NoCaches())
        )
        dialer = dial if direct else _dial_nobody
        yield await stack.enter_async_context(
            ChunkClient.open(session, GrpcChunkTransport(nursery, host), host, dialer=dialer)
        )


async def _measure(
    label: str, cluster: Servers, size_bytes: int, operations: int, work: Callable[[], Awaitable[None]]
) -> None:
    before = [_own_cpu_s(), cluster.cpu_s("datanode"), cluster.cpu_s("coordinator")]
    started = time.monotonic()
    await work()
    seconds = time.monotonic() - started
    after = [_own_cpu_s(), cluster.cpu_s("datanode"), cluster.cpu_s("coordinator")]
    used = [late - early for early, late in zip(before, after, strict=True)]
    parts = zip(("client", "datanodes", "coordinator"), used, strict=True)
    costs = "   ".join(
        f"{part} {cpu_s * limits.GIB / size_bytes:6.2f} s/GiB {cpu_s * 1e6 / operations:6.0f} us each"
        for part, cpu_s in parts
    )
    rate = f"{size_bytes / limits.MIB / seconds:6.0f} MiB/s {operations / seconds:6.0f} /s"
    print(f"{label:34} {rate}   CPU: {costs}", flush=True)


Stored = list[pb.StoredChunk]


async def _store(chunks: ChunkClient, data: list[bytes], at_once: int, stored: Stored) -> None:
    """Store all, `at_once` per call and two calls under way, as a flusher does."""
    room = trio.CapacityLimiter(2)

    async def part(start: int) -> None:
        async with room:
            stored.extend(await chunks.store(data[start : start + at_once]))

    async with trio.open_nursery() as nursery:
        for first in range(0, len(data), at_once):
            nursery.start_soon(part, first)


async def _read_all(chunks: ChunkClient, stored: Stored, at_once: int) -> None:
    room = trio.CapacityLimiter(at_once)

    async def one(chunk: pb.StoredChunk) -> None:
        async with room:
            await chunks.retrieve(chunk.chunk_id, chunk.length, chunk.nodes, 0, chunk.length)

    async with trio.open_nursery() as nursery:
        for each in stored:
            nursery.start_soon(one, each)


async def _read_parts(chunks: ChunkClient, stored: Stored, count: int) -> None:
    """Random 4 KiB, one after another."""
    for _ in range(count):
        chunk = random.choice(stored)
        offset = random.randrange(chunk.length // SMALL_BYTES) * SMALL_BYTES
        await chunks.retrieve(chunk.chunk_id, chunk.length, chunk.nodes, offset, SMALL_BYTES)


async def _measure_stores(
    cluster: Servers, size_bytes: int, small: int, *, direct: bool
) -> tuple[Stored, Stored]:
    way = "shared memory" if direct else "gRPC"
    large: Stored = []
    tiny: Stored = []
    async with client(cluster.address, direct=direct) as chunks:
        data = [os.urandom(limits.CHUNK_MAX_BYTES) for _ in range(size_bytes // limits.CHUNK_MAX_BYTES)]
        work = partial(_store, chunks, data, STORES_AT_ONCE, large)
        await _measure(f"store 4 MiB chunks, {way}", cluster, size_bytes, len(data), work)
        pieces = [os.urandom(SMALL_BYTES) for _ in range(small)]
        work = partial(_store, chunks, pieces, SMALL_AT_ONCE, tiny)
        await _measure(f"store 4 KiB chunks, {way}", cluster, small * SMALL_BYTES, small, work)
    return large, tiny


async def _measure_reads(cluster: Servers, large: Stored, tiny: Stored, *, direct: bool) -> None:
    way = "descriptor" if direct else "gRPC"
    parts = 20_000 if direct else 2_000
    size_bytes = sum(chunk.length for chunk in large)
    small_bytes = sum(chunk.length for chunk in tiny)
    async with client(cluster.address, direct=direct) as chunks:
        await _read_all(chunks, large[:1], 1)
        work = partial(_read_all, chunks, large, READS_AT_ONCE)
        await _measure(f"read 4 MiB chunks, {way}", cluster, size_bytes, len(large), work)
        work = partial(_read_parts, chunks, large, parts)
        await _measure(f"random 4 KiB, {way}", cluster, parts * SMALL_BYTES, parts, work)
        work = partial(_read_all, chunks, tiny, 1)
        await _measure(f"4 KiB chunks one by one, {way}", cluster, small_bytes, len(tiny), work)


async def _run(cluster: Servers, size_bytes: int, small: int, rounds: int) -> None:
    for _ in range(rounds):
        for direct in (False, True):
            large, tiny = await _measure_stores(cluster, size_bytes, small, direct=direct)
            await _measure_reads(cluster, large, tiny, direct=direct)


def main() -> None:
    """Start a cluster, measure, and stop it."""
    configure_logging("bench", "warning", "text")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="bytes to move, MiB")
    parser.add_argument("--small", type=int, default=4_000, help="number of 4 KiB chunks")
    parser.add_argument("--rounds", type=int, default=1, help="how often to measure all of it")
    parser.add_argument("--datanodes", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where to keep the data meanwhile (/var/tmp)")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="cairnfs-bench-", dir=given.scratch or "/var/tmp") as directory,
        servers(Path(directory), given.datanodes, given.replicas) as cluster,
    ):
        trio.run(_run, cluster, given.mib << 20, given.small, given.rounds)


if __name__ == "__main__":
    main()
