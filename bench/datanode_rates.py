"""Measures StoreChunk and RetrieveChunk of one datanode: GB per CPU second at each end, and per second.

Run it as `python -m bench.datanode_rates [--mib 512] [--chunk-kib 4096]`. The datanode is a process of its
own, with its data under the current directory, and the client does no more than speak the protocol.
"""

import argparse
import asyncio
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop

from cairnfs.base import limits
from cairnfs.base.checksums import crc32c
from cairnfs.bulk.codec import ChunkFrame, decode_chunk_data, encode_chunk_data
from cairnfs.rpc.v1 import chunks_pb2

_SERVER = """
import json, sys
from pathlib import Path
from cairnfs.base.settings import DatanodeSettings
from cairnfs.datanode.main import run
data, ready_fd = sys.argv[1], int(sys.argv[2])
sys.exit(run(DatanodeSettings(data=Path(data), ready_fd=ready_fd, coordinators="127.0.0.1:9",
    reserve_bytes=0, scrub_bytes_per_s=0, log_level="error")))
"""
_OPTIONS = (
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
)


def _joined(data: Path) -> None:
    """Make the directory of a datanode that has a number already, so that it serves without a coordinator."""
    identity = {"format": 1, "uuid": f"bench{os.getpid()}", "cluster_id": "bench", "node": 1}
    (data / "identity.json").write_text(json.dumps(identity))


def _frames(transfer: int, data: bytes) -> list[bytes]:
    header = chunks_pb2.ChunkHeader(chunk_id=hashlib.sha256(data).digest(), length=len(data))
    messages: list[bytes] = []
    for offset in range(0, len(data), limits.FRAME_MAX_BYTES):
        part = data[offset : offset + limits.FRAME_MAX_BYTES]
        final = offset + len(part) == len(data)
        frame = ChunkFrame(transfer, offset, part, crc32c(part), final, None if offset else header)
        messages.append(encode_chunk_data(frame))
    return messages


async def _store(channel: grpc.aio.Channel, chunks: list[bytes]) -> None:
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(
        "/cairnfs.rpc.v1.Chunks/StoreChunk"
    )()
    stored = 0
    room = asyncio.Semaphore(64)

    async def answers() -> None:
        nonlocal stored
        while stored < len(chunks):
            ack = chunks_pb2.ChunkDataAck.FromString(await call.read())  # type: ignore[arg-type]
            if ack.error:
                raise RuntimeError(ack.detail)
            if ack.stored:
                stored += 1
                room.release()

    reading = asyncio.create_task(answers())
    for number, data in enumerate(chunks):
        await room.acquire()
        for message in _frames(number, data):
            await call.write(message)
    await call.done_writing()
    await reading


async def _retrieve(channel: grpc.aio.Channel, chunks: list[bytes]) -> None:
    call: Any = channel.stream_stream(
        "/cairnfs.rpc.v1.Chunks/RetrieveChunk",
        request_serializer=chunks_pb2.RetrieveChunkRequest.SerializeToString,
    )()
    names = [hashlib.sha256(data).digest() for data in chunks]

    async def ask() -> None:
        for number, chunk_id in enumerate(names):
            await call.write(chunks_pb2.RetrieveChunkRequest(transfer=number, chunk_id=chunk_id))
        await call.done_writing()

    asking = asyncio.create_task(ask())
    while isinstance(message := await call.read(), bytes):
        frame = decode_chunk_data(message)
        if frame.error or crc32c(frame.data) != frame.crc32c:
            raise RuntimeError(frame.detail or "wrong checksum")
    await asking


async def _measure(label: str, pid: int, total_bytes: int, work: Awaitable[None]) -> None:
    server, client, started = _cpu_s(pid), _own_cpu_s(), time.monotonic()
    await work
    seconds = time.monotonic() - started
    gb = total_bytes / 1e9
    print(
        f"{label:28} {gb / seconds:6.2f} GB/s   "
        f"{gb / (_cpu_s(pid) - server):6.2f} GB per CPU second at the datanode   "
        f"{gb / (_own_cpu_s() - client):6.2f} at the client"
    )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _run(targets: list[tuple[str, str]], pid: int, size_bytes: int, chunk_bytes: int) -> None:
    for name, target in targets:
        chunks = [os.urandom(chunk_bytes) for _ in range(size_bytes // chunk_bytes)]
        async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
            await _measure(f"StoreChunk, {name}", pid, size_bytes, _store(channel, chunks))
            await _measure(f"RetrieveChunk, {name}", pid, size_bytes, _retrieve(channel, chunks))


def main() -> None:
    """Start a datanode, measure over TCP and over its Unix socket, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="bytes to move, MiB")
    parser.add_argument("--chunk-kib", type=int, default=4096, help="size of a chunk, KiB")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as directory:
        _joined(Path(directory))
        ready, ready_fd = os.pipe()
        command = [sys.executable, "-c", _SERVER, directory, str(ready_fd)]
        with subprocess.Popen(command, pass_fds=[ready_fd]) as server:
            os.close(ready_fd)
            with os.fdopen(ready) as answer:
                address = json.loads(answer.readline())["address"]
            targets = [("TCP", address), ("Unix socket", f"unix-abstract:cairnfs-bench{os.getpid()}")]
            try:
                uvloop.run(_run(targets, server.pid, given.mib << 20, given.chunk_kib << 10))
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
