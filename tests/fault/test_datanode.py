"""A datanode as a process: starting, refusing, stopping, and replicas that stall or die."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cairnfs.base import limits
from cairnfs.bulk.codec import encode_chunk_data
from cairnfs.rpc.v1 import chunks_pb2, common_pb2 as pb
from tests.unit.datanode.harness import Client, content, coordinator, frames_of, name

DEADLINE_S = 60.0
_PROGRAM = """
import json, sys
from pathlib import Path
from cairnfs.base.settings import DatanodeSettings
from cairnfs.datanode.main import run
given = json.loads(sys.argv[1])
given["data"] = Path(given["data"])
sys.exit(run(DatanodeSettings(reserve_bytes=0, **given)))
"""


class Process:
    """One datanode process and its address."""

    def __init__(self, data: Path, coordinators: str, **settings: object) -> None:
        ready, ready_fd = os.pipe()
        given = {"data": str(data), "coordinators": coordinators, "ready_fd": ready_fd, **settings}
        self._child = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(given)],
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[ready_fd],
        )
        os.close(ready_fd)
        with os.fdopen(ready) as answer:
            line = answer.readline()
        self.address = json.loads(line)["address"] if line else ""

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    def finish(self) -> tuple[int, str]:
        """Wait for its end; returns the status and what it said on stderr."""
        _, errors = self._child.communicate(timeout=DEADLINE_S)
        return self._child.returncode, errors

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def end(self) -> None:
        if self._child.stderr is not None and not self._child.stderr.closed:
            self._child.kill()
            self._child.communicate()


@asynccontextmanager
async def processes(root: Path, count: int) -> AsyncIterator[list[Process]]:
    async with coordinator() as (fake, address):
        started: list[Process] = []
        try:
            for number in range(1, count + 1):
                process = await asyncio.to_thread(Process, root / str(number), address)
                started.append(process)
                await fake.until(lambda number=number: len(fake.nodes) == number)  # type: ignore[misc]
            await fake.until(lambda: fake.informed() == set(range(1, count + 1)))
            yield started
        finally:
            for process in started:
                await asyncio.to_thread(process.end)


def test_a_process_serves_and_stops_when_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with processes(tmp_path, 1) as (process,):
            data = content(1_000_000)
            async with Client(process.address) as client:
                assert (await client.store(frames_of(data))).stored
                assert (await client.retrieve(name(data)))[0] == data
                process.signal(signal.SIGTERM)
                status, errors = await asyncio.to_thread(process.finish)
            assert status == 0, errors

    asyncio.run(scenario())


def test_what_prevents_serving_is_one_line(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    taken = f"127.0.0.1:{listener.getsockname()[1]}"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("x")
    for settings, expected in [
        ({"data": tmp_path / "foreign"}, "notes.txt"),
        ({"data": tmp_path / "a", "listen": "0.0.0.0:0"}, "--insecure"),
        ({"data": tmp_path / "b", "listen": taken}, taken),
        ({"data": tmp_path / "c", "listen": "nowhere"}, "nowhere"),
    ]:
        process = Process(coordinators="127.0.0.1:1", **settings)  # type: ignore[arg-type]
        try:
            assert not process.address
            status, errors = process.finish()
        finally:
            process.end()
        assert status == 1
        assert expected in errors
        ours = [line for line in errors.splitlines() if "add_port.cc" not in line]  # gRPC has its own say
        assert len(ours) == 1
        assert ours[0].startswith("cairnfs datanode: ")
    listener.close()


def test_a_node_of_another_cluster_exits(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (fake, address):
            first = await asyncio.to_thread(Process, tmp_path, address)
            try:
                await fake.until(lambda: len(fake.heartbeats) > 0)
                first.signal(signal.SIGTERM)
                assert (await asyncio.to_thread(first.finish))[0] == 0
            finally:
                first.end()
            fake.cluster_id = "another"
            second = await asyncio.to_thread(Process, tmp_path, address, log_level="error")
            try:
                status, errors = await asyncio.to_thread(second.finish)
            finally:
                second.end()
            assert status == 1
            assert errors == "cairnfs datanode: this is another cluster\n"

    asyncio.run(scenario())


def test_a_stopped_replica_costs_bounded_memory_and_no_other_copy(tmp_path: Path) -> None:
    """A client pushes as much as it has credit for; the primary must not hold more than its windows."""

    async def scenario() -> None:
        async with processes(tmp_path, 3) as nodes, Client(nodes[0].address) as client:
            assert (await client.store(frames_of(content(4 << 20, 99), [2, 3]))).stored
            before = nodes[0].peak_bytes()
            nodes[2].signal(signal.SIGSTOP)
            chunks = [content(4 << 20, seed) for seed in range(20)]
            answers = await asyncio.wait_for(pushed(client, chunks, [2, 3]), DEADLINE_S)
            grown = nodes[0].peak_bytes() - before
            nodes[2].signal(signal.SIGCONT)
            held = {number: sorted(answer.nodes) for number, answer in answers.items()}
            assert held == {number: [1, 2] for number in range(len(chunks))}
            assert {answer.error for answer in answers.values()} == {pb.ERROR_CODE_UNAVAILABLE}
            assert grown < 5 * limits.STORE_WINDOW_BYTES < len(chunks) * (4 << 20)
            for data in chunks[:3]:
                assert (await client.retrieve(name(data)))[0] == data

    asyncio.run(scenario())


async def pushed(
    client: Client, chunks: list[bytes], replicas: list[int]
) -> dict[int, chunks_pb2.ChunkDataAck]:
    """Send all chunks on one stream, as fast as gRPC takes them; returns the final answers."""
    call = client.open_store()
    answers: dict[int, chunks_pb2.ChunkDataAck] = {}

    async def collect() -> None:
        while len(answers) < len(chunks):
            ack = await call.read()
            if ack.stored or ack.error:
                answers[ack.transfer] = ack

    collecting = asyncio.create_task(collect())
    for number, data in enumerate(chunks):
        for frame in frames_of(data, replicas, transfer=number):
            await call.write(encode_chunk_data(frame))
    await call.done_writing()
    await collecting
    return answers


@pytest.mark.parametrize("victim", [1, 2])
def test_a_replica_killed_midway_is_left_out(tmp_path: Path, victim: int) -> None:
    async def scenario() -> None:
        async with processes(tmp_path, 3) as nodes, Client(nodes[0].address) as client:
            call = client.open_store()
            data = content(4 << 20)
            frames = frames_of(data, [2, 3])
            for frame in frames[:2]:
                await call.write(encode_chunk_data(frame))
            while (await call.read()).bytes_received < 1 << 20:
                pass
            nodes[victim].signal(signal.SIGKILL)
            for frame in frames[2:]:
                await call.write(encode_chunk_data(frame))
            await call.done_writing()
            while not ((ack := await asyncio.wait_for(call.read(), DEADLINE_S)).error or ack.stored):
                pass
            assert ack.error == pb.ERROR_CODE_UNAVAILABLE
            assert sorted(ack.nodes) == [1, 5 - (victim + 1)]

    asyncio.run(scenario())


def test_a_primary_killed_midway_leaves_replicas_clean(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with processes(tmp_path, 2) as nodes, Client(nodes[0].address) as client:
            call = client.open_store()
            for frame in frames_of(content(4 << 20), [2])[:2]:
                await call.write(encode_chunk_data(frame))
            while (await call.read()).bytes_received < 1 << 20:
                pass
            temp = tmp_path / "2" / "temp"
            assert list(temp.iterdir())
            nodes[0].signal(signal.SIGKILL)
            async with asyncio.timeout(DEADLINE_S):
                while list(temp.iterdir()):  # noqa: ASYNC110  # nobody tells us
                    await asyncio.sleep(0.02)
            async with Client(nodes[1].address) as other:
                assert (await other.store(frames_of(content(4 << 20)))).stored

    asyncio.run(scenario())
