"""Calls of the Chunks service as coroutines see them: messages to read and to write, as bytes."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.http2.calls import Status
from cairnfs.rpc.v1 import common_pb2
from cairnfs.serving.server import Call

log = get_logger(__name__)

Serve = Callable[["ByteCall"], Awaitable[None]]


class ByteCall:
    """One call; it is the call's receiver and owns the task that serves it.

    What was received and not yet read stays below a frame and one message more: then the sender is held back.
    """

    def __init__(self, call: Call, serve: Serve) -> None:
        self._call = call
        self._arrived: deque[bytes] = deque()
        self._arrived_bytes = 0
        self._held_back = False
        self._ended = False
        self._changed = asyncio.Event()
        self.task = asyncio.ensure_future(self._run(serve))

    async def _run(self, serve: Serve) -> None:
        try:
            await serve(self)
        except CairnError as error:
            unavailable = error.code == common_pb2.ERROR_CODE_UNAVAILABLE
            self._call.finish(Status.UNAVAILABLE if unavailable else Status.INVALID_ARGUMENT, str(error))
        except Exception:
            log.exception("call_failed")
            self._call.finish(Status.INTERNAL, "internal error")
        else:
            self._call.finish()

    async def read(self) -> bytes | None:
        """The next message; None when the sender has closed its side."""
        while not self._arrived:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        message = self._arrived.popleft()
        self._arrived_bytes -= len(message)
        self._hold_back()
        return message

    async def write(self, message: bytes) -> None:
        """Send a message, when the other end takes it."""
        while self._call.blocked:
            self._changed.clear()
            await self._changed.wait()
        self._call.send(message)

    def write_now(self, message: bytes) -> bool:
        """Send a message if the other end takes it at once."""
        if self._call.blocked:
            return False
        self._call.send(message)
        return True

    def _hold_back(self) -> None:
        full = self._arrived_bytes > limits.FRAME_MAX_BYTES
        if full != self._held_back:
            self._held_back = full
            self._call.hold_back(full)

    # ------------------------------------------------------------------ Receiver

    def message(self, data: bytes) -> None:
        """See `Receiver`."""
        self._arrived.append(data)
        self._arrived_bytes += len(data)
        self._hold_back()
        self._changed.set()

    def ended(self) -> None:
        """See `Receiver`."""
        self._ended = True
        self._changed.set()

    def unblocked(self) -> None:
        """See `Receiver`."""
        self._changed.set()

    def gone(self) -> None:
        """See `Receiver`."""
        self.task.cancel()
