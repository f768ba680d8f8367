"""Memory that a sender of chunks shares with a datanode of its host: frames travel without their bytes.

The sender copies the payload of a frame into free units of the buffer and sends where it is. The units are
free again when the transfer has acknowledged these bytes: until then the datanode may read them.
"""

import fcntl
import mmap
import os
from collections import deque
from typing import Final

from cairnfs.base import limits
from cairnfs.base.checksums import crc32c
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import new_id
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

UNIT: Final = limits.SHARED_UNIT_BYTES
_UNITS: Final = limits.SHARED_BUFFER_BYTES // UNIT
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class SendBuffer:
    """The sender's side. Make it, pass `descriptor` to the datanode, and set `name` to what it answers."""

    def __init__(self) -> None:
        """Raises OSError when there is no memory or descriptor left."""
        self.name = ""
        self.descriptor = os.memfd_create("cairnfs-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, limits.SHARED_BUFFER_BYTES)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
            self._memory = mmap.mmap(self.descriptor, limits.SHARED_BUFFER_BYTES)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._used = bytearray(_UNITS)
        # By transfer: where each range ends in the chunk, its first unit, how many units.
        self._placed: dict[int, deque[tuple[int, int, int]]] = {}

    @property
    def used_bytes(self) -> int:
        """Units not acknowledged yet."""
        return sum(self._used) * UNIT

    def place(self, frame: ChunkFrame) -> ChunkFrame:
        """The frame to send: without its payload if that is large and finds room, otherwise as it is."""
        size = len(frame.data)
        if size < UNIT or not self.name:
            return frame
        count = -(-size // UNIT)
        unit = self._used.find(bytes(count))
        if unit < 0:
            return frame
        self._used[unit : unit + count] = b"\1" * count
        position = unit * UNIT
        self._memory[position : position + size] = frame.data
        self._placed.setdefault(frame.transfer, deque()).append((frame.offset + size, unit, count))
        return ChunkFrame(
            transfer=frame.transfer,
            offset=frame.offset,
            crc32c=frame.crc32c or crc32c(frame.data),
            is_final=frame.is_final,
            header=frame.header,
            shared=chunks_pb2.SharedRange(buffer=self.name, position=position, length=size),
        )

    def acknowledged(self, ack: chunks_pb2.ChunkDataAck) -> None:
        """What this says to be received, or all of the transfer if it is the final answer, is free again."""
        placed = self._placed.get(ack.transfer)
        if placed is None:
            return
        final = ack.stored or ack.error != common_pb2.ERROR_CODE_OK
        while placed and (final or placed[0][0] <= ack.bytes_received):
            _, unit, count = placed.popleft()
            self._used[unit : unit + count] = bytes(count)
        if not placed:
            del self._placed[ack.transfer]

    def close(self) -> None:
        """Give the memory back once the datanode has let go of it as well; idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self._memory.close()
            self.name = ""


class SharedBuffers:
    """The datanode's side: the buffers that senders share with it, by name."""

    def __init__(self) -> None:
        self._views: dict[str, memoryview] = {}

    def add(self, descriptor: int, size_bytes: int) -> str:
        """Map a buffer, whose descriptor stays the caller's; its name.

        Raises CairnError INVALID when its owner could take the memory away while it is read.
        """
        try:
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
            fits = os.fstat(descriptor).st_size == size_bytes
        except OSError:
            sealed = fits = False
        if not sealed or not fits or not 0 < size_bytes <= limits.SHARED_BUFFER_BYTES:
            raise CairnError(common_pb2.ERROR_CODE_INVALID, "not a buffer that can be shared")
        name = new_id()
        self._views[name] = memoryview(mmap.mmap(descriptor, size_bytes, prot=mmap.PROT_READ))
        return name

    def resolve(self, frame: ChunkFrame) -> None:
        """Let `data` of a frame show the bytes that it refers to. Raises CairnError INVALID."""
        shared = frame.shared
        if shared is None:
            return
        view = self._views.get(shared.buffer)
        end = shared.position + shared.length
        if view is None or end > len(view) or shared.length > limits.FRAME_MAX_BYTES or frame.data:
            raise CairnError(common_pb2.ERROR_CODE_INVALID, "frame refers to no bytes in a shared buffer")
        frame.data = view[shared.position : end]
        frame.shared = None

    def remove(self, name: str) -> None:
        """Forget a buffer; what was taken from it stays readable."""
        self._views.pop(name, None)
