"""Carries out what the conductor decides: commits through the committer, events through outboxes."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from cairnfs.base.limits import FRAME_MAX_BYTES, KIB, SESSION_OUTBOX_MAX_BYTES
from cairnfs.base.logs import get_logger
from cairnfs.coordinator.conductor import Conductor, Effects
from cairnfs.coordinator.conductor.trees import Tell
from cairnfs.coordinator.namespace.mends import Mend
from cairnfs.engine.committer import Committer, Done
from cairnfs.engine.interface import EngineBroken, Outcome
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb

log = get_logger(__name__)

_MESSAGE_BYTES: Final = FRAME_MAX_BYTES  # a larger message is split between events
_PART_BYTES: Final = 256 * KIB
_TICK_MAX_S: Final = 0.25
_EVENTS_TAG: Final = b"\x0a"  # ServerMessage.events, length-delimited


class Outbox:
    """Serialized events for one connection, in order, until its writer takes them."""

    def __init__(self, filled: Callable[[], None]) -> None:
        """`filled` is called whenever there is something to take, or nothing more will come."""
        self._parts: deque[bytes] = deque()
        self._filled = filled
        self.size_bytes = 0
        self.closing = False

    def put(self, events: Sequence[pb.Event]) -> None:
        """Append the `events` of one step; ignored once closing.

        They arrive in one message unless they are large; a recall always does with the event before it.
        """
        if self.closing:
            return
        pieces: list[bytes] = []
        part_bytes = 0
        for event in events:
            if part_bytes > _PART_BYTES and not event.HasField("recall"):
                self._append(pieces)
                pieces, part_bytes = [], 0
            body = event.SerializeToString()
            pieces += (_EVENTS_TAG, _varint(len(body)), body)
            part_bytes += len(body)
        self._append(pieces)
        self._filled()

    def _append(self, pieces: list[bytes]) -> None:
        part = b"".join(pieces)
        self._parts.append(part)
        self.size_bytes += len(part)

    def close(self) -> None:
        """Nothing more comes; what is there is still to be sent."""
        self.closing = True
        self._filled()

    def take(self) -> bytes:
        """The next ServerMessage, everything queued in it up to about 1 MiB; empty when there is nothing."""
        taken: list[bytes] = []
        room_bytes = _MESSAGE_BYTES
        while self._parts and room_bytes > 0:
            part = self._parts.popleft()
            taken.append(part)
            room_bytes -= len(part)
            self.size_bytes -= len(part)
        return b"".join(taken)


class Driver:
    """Feeds one conductor and obeys its effects. All methods run on the event loop's thread."""

    def __init__(
        self,
        conductor: Conductor,
        committer: Committer,
        broken: Callable[[], None],
        lease_s: float,
        deposed: Callable[[], bool] = lambda: False,
    ) -> None:
        """`broken` is called when storage failed, so that this process must end.

        Once `deposed` is true another coordinator may lead, and this one answers nobody any more.
        """
        self.conductor: Final = conductor
        self._committer = committer
        self._broken = broken
        self._deposed = deposed
        self._tick_s = min(_TICK_MAX_S, lease_s / 20)
        self._outboxes: dict[int, Outbox] = {}
        self._last_connection = 0
        self._stopped = False

    def delivered(self, batch: Sequence[tuple[Done, Outcome]]) -> None:
        """Outcomes of one group commit."""
        if any(isinstance(outcome.error, EngineBroken) for _, outcome in batch):
            self._broken()
        self._do(self.conductor.committed(batch))

    def start(self) -> None:
        """Begin; sessions of the coordinator before are expected back from now on."""
        self._do(self.conductor.start())

    def stop(self) -> None:
        """Take no more commits: what is under way is finished by closing the committer."""
        self._stopped = True
        self.conductor.trees.close()

    async def run(self, low_space: Callable[[], bool]) -> None:
        """Let time pass until cancelled."""
        while True:
            await asyncio.sleep(self._tick_s)
            try:
                self._do(self.conductor.tick())
                self._do(self.conductor.low_space(low_space()))
            except Exception:
                log.exception("tick_failed")

    # ------------------------------------------------------------------ connections

    def connect(self, hello: pb.Hello, filled: Callable[[], None]) -> tuple[int, Outbox]:
        """A connection that said Hello; returns its number and where its events come out.

        `filled` (see `Outbox`) must not call the driver.
        """
        self._last_connection += 1
        connection = self._last_connection
        outbox = self._outboxes[connection] = Outbox(filled)
        self._do(self.conductor.connect(connection, hello))
        return connection, outbox

    def message(self, connection: int, message: pb.ClientMessage) -> None:
        """The next message of a connection."""
        self._do(self.conductor.message(connection, message))

    def disconnect(self, connection: int) -> None:
        """The connection is gone."""
        self._outboxes.pop(connection, None)
        self._do(self.conductor.disconnect(connection))

    def node_update(self, update: common.NodeUpdate) -> None:
        """The membership changed."""
        self._do(self.conductor.node_updates((update,)))

    async def mend(self, mend: Mend) -> bool:
        """Repair one finding of fsck; whether there was something to do. Raises CairnError, EngineError."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if future.done():
                return
            if outcome.error is not None:
                future.set_exception(outcome.error)
            else:
                future.set_result(outcome.value)

        self._do(self.conductor.mend(mend, done))
        return await future

    def look_for_orphans(self) -> None:
        """Reap orphans that a repair recorded."""
        self._do(self.conductor.look_for_orphans())

    def set_policy(self, request: pb.SetPolicyRequest, answered: Callable[[pb.SetPolicyReply], None]) -> None:
        """Set the policy of a directory; see Conductor.set_policy."""
        self._do(self.conductor.set_policy(request, answered))

    def make_snapshot(self, request: pb.MakeSnapshotRequest, tell: Tell) -> None:
        """Make a snapshot; see Conductor.make_snapshot."""
        self._do(self.conductor.make_snapshot(request, tell))

    def delete_snapshot(self, request: pb.DeleteSnapshotRequest, tell: Tell) -> None:
        """Delete a snapshot; see Conductor.delete_snapshot."""
        self._do(self.conductor.delete_snapshot(request, tell))

    def clone(self, request: pb.CloneTreeRequest, tell: Tell) -> None:
        """Clone a tree; see Conductor.clone."""
        self._do(self.conductor.clone(request, tell))

    def change_trash(
        self, request: pb.ChangeTrashRequest, answered: Callable[[pb.ChangeTrashReply], None]
    ) -> None:
        """Take entries out of the trash; see Conductor.change_trash."""
        self._do(self.conductor.change_trash(request, answered))

    # ------------------------------------------------------------------ effects

    def _do(self, effects: Effects) -> None:
        if self._deposed():
            self._broken()
            return
        if not self._stopped:
            for commit in effects.commits:
                self._committer.submit(commit.operation, commit.token)
        overflowing = []
        for connection, events in effects.sends.items():
            outbox = self._outboxes.get(connection)
            if outbox is not None:
                outbox.put(events)
                if outbox.size_bytes > SESSION_OUTBOX_MAX_BYTES:
                    overflowing.append(connection)
        for connection in effects.closes:
            outbox = self._outboxes.get(connection)
            if outbox is not None:
                outbox.close()
        for connection in overflowing:
            self._do(self.conductor.overflow(connection))


def _varint(number: int) -> bytes:
    """`number` as protobuf writes lengths."""
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
