"""What one metadata request costs: CPU time at the client and at the coordinator, alone and with others.

Run it as `python -m bench.round_trips [--requests 2000] [--rounds 5] [--depths 1,32]`. The coordinator is a
process of its own with its metadata in memory; the client is a session and the transport below it, without
a mount. Rounds of the depths alternate; prints the median of each and the least and the most.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from bench.listener import NoCaches
from cairnfs.client.grpc_transport import GrpcMetadataTransport
from cairnfs.client.session import Session
from cairnfs.client.session_core import Identity
from cairnfs.rpc.v1 import metadata_pb2 as pb

_SERVER = """
import sys
from pathlib import Path
from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.main import run
sys.exit(run(CoordinatorSettings(data=Path(sys.argv[1]), ready_fd=int(sys.argv[2]), listen="127.0.0.1:0",
    engine="memory", log_level="error")))
"""
_WARM_UP_REQUESTS = 200


@contextmanager
def _coordinator() -> Iterator[tuple[str, int]]:
    """A coordinator's address and process number; stopped at the end."""
    with tempfile.TemporaryDirectory() as directory:
        ready, ready_fd = os.pipe()
        command = [sys.executable, "-c", _SERVER, directory, str(ready_fd)]
        with subprocess.Popen(command, pass_fds=[ready_fd]) as server:
            os.close(ready_fd)
            try:
                with os.fdopen(ready) as answer:
                    yield json.loads(answer.readline())["address"], server.pid
            finally:
                server.terminate()


async def _ask(session: Session, requests: int, depth: int) -> None:
    """`requests` requests from `depth` tasks, each of which waits for its reply before it asks again."""

    async def one_caller() -> None:
        for _ in range(requests // depth):
            await session.call(pb.GetAttr(ino=1))

    async with trio.open_nursery() as nursery:
        for _ in range(depth):
            nursery.start_soon(one_caller)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _measure(address: str, pid: int, requests: int, rounds: int, depths: list[int]) -> None:
    found: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    async with (
        trio.open_nursery() as nursery,
        Session.open(GrpcMetadataTransport(nursery), [address], Identity("bench"), NoCaches()) as session,
    ):
        await _ask(session, _WARM_UP_REQUESTS, 1)
        for _ in range(rounds):
            for depth in depths:
                server_s, client_s, started_s = _cpu_s(pid), time.process_time(), time.perf_counter()
                await _ask(session, requests, depth)
                wall_s, client_s = time.perf_counter() - started_s, time.process_time() - client_s
                used_s = (client_s, _cpu_s(pid) - server_s, wall_s)
                found[depth].append((used_s[0] / requests, used_s[1] / requests, used_s[2] / requests))
    print(
        f"{'outstanding':>12}{'client CPU':>24}{'coordinator CPU':>24}{'by the clock':>24}   µs per request"
    )
    for depth, rows in found.items():
        columns = [_spread([row[column] * 1e6 for row in rows]) for column in range(3)]
        print(f"{depth:>12}" + "".join(f"{column:>24}" for column in columns))


def _spread(figures: list[float]) -> str:
    return f"{statistics.median(figures):.0f} ({min(figures):.0f} to {max(figures):.0f})"


def main() -> None:
    """Start a coordinator, measure, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000, help="requests of one round")
    parser.add_argument("--rounds", type=int, default=5, help="times that each depth is measured")
    parser.add_argument("--depths", default="1,32", help="requests outstanding at a time, by commas")
    given = parser.parse_args()
    depths = [int(depth) for depth in given.depths.split(",")]
    with _coordinator() as (address, pid):
        trio.run(_measure, address, pid, given.requests, given.rounds, depths)


if __name__ == "__main__":
    main()
