"""A trivial datanode in a process of its own: keeps chunks in memory, checks frames and chunk names.

Run as a script with the name of an abstract Unix socket: serves there and on a TCP port, which it prints,
until standard input ends.
"""

import asyncio
import os
import sys
from typing import Any

import grpc.aio
import uvloop

from cairnfs.base import limits
from cairnfs.base.checksums import chunk_id, crc32c
from cairnfs.bulk.codec import ChunkFrame, decode_chunk_data, encode_chunk_data
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_CHUNKS: dict[bytes, bytes] = {}
CRASH = b"crash" + bytes(27)  # retrieving this chunk kills the process
GARBAGE = b"garbage" + bytes(25)  # retrieving this chunk sends bytes that are no message


async def _store(_requests: Any, context: Any) -> None:
    arriving: dict[int, bytearray] = {}
    names: dict[int, bytes] = {}
    while (message := await context.read()) is not grpc.aio.EOF:
        frame = decode_chunk_data(message)
        if frame.header is not None:
            arriving[frame.transfer] = bytearray()
            names[frame.transfer] = frame.header.chunk_id
        if frame.error:
            continue
        assert crc32c(frame.data) == frame.crc32c
        assert frame.offset == len(arriving[frame.transfer])
        arriving[frame.transfer] += frame.data
        ack = chunks_pb2.ChunkDataAck(
            transfer=frame.transfer,
            bytes_received=len(arriving[frame.transfer]),
            ready_for_next=limits.STORE_WINDOW_BYTES,
        )
        if frame.is_final:
            data = bytes(arriving.pop(frame.transfer))
            if chunk_id(data) == names[frame.transfer]:
                _CHUNKS[names[frame.transfer]] = data
                ack.stored = True
                ack.nodes.append(1)
            else:
                ack.error = common_pb2.ERROR_CODE_CORRUPT
        await context.write(ack)


async def _retrieve(_requests: Any, context: Any) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        if request.chunk_id == CRASH:
            os._exit(1)
        if request.chunk_id == GARBAGE:
            await context.write(b"\xff\xff\xff")
            continue
        data = memoryview(_CHUNKS.get(request.chunk_id, b""))
        if not data:
            missing = ChunkFrame(request.transfer, is_final=True, error=common_pb2.ERROR_CODE_NOT_FOUND)
            await context.write(encode_chunk_data(missing))
            continue
        end = request.offset + request.length if request.length else len(data)
        for start in range(request.offset, end, limits.FRAME_MAX_BYTES):
            part = data[start : min(start + limits.FRAME_MAX_BYTES, end)]
            is_final = start + len(part) == end
            frame = ChunkFrame(request.transfer, start, part, crc32c(part), is_final)
            await context.write(encode_chunk_data(frame))


async def _main(socket_name: str) -> None:
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", limits.GRPC_MESSAGE_MAX_BYTES)],
    )
    handlers: dict[str, Any] = {
        "StoreChunk": grpc.stream_stream_rpc_method_handler(
            _store, None, chunks_pb2.ChunkDataAck.SerializeToString
        ),
        "RetrieveChunk": grpc.stream_stream_rpc_method_handler(
            _retrieve, chunks_pb2.RetrieveChunkRequest.FromString, None
        ),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("cairnfs.rpc.v1.Chunks", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.add_insecure_port(f"unix-abstract:{socket_name}")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
