"""Sends the journal, in order and one batch at a time, and lets others wait for their entries."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError, traits
from cairnfs.base.logs import get_logger
from cairnfs.client.interface import MetadataSession
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.journal import Entry, Journal

log = get_logger(__name__)

RETRY_S = 1.0

Spawn = Callable[..., None]
Refuted = Callable[[Entry, CairnError], None]


class Journaling:
    """The journal of one mount and its way to the coordinator."""

    def __init__(self, session: MetadataSession, clock: Clock, spawn: Spawn, refuted: Refuted) -> None:
        """`refuted` is told of a change that had returned to its caller and was not made."""
        self._session = session
        self._clock = clock
        self._spawn = spawn
        self._refuted = refuted
        self._journal = Journal()
        self._settled = trio.lowlevel.ParkingLot()
        self._sending = False
        self._failures = 0
        self._failure: CairnError | None = None

    # ------------------------------------------------------------------ adding

    @property
    def has_room(self) -> bool:
        """Whether another change may be made here."""
        return self._journal.has_room

    @property
    def unsettled(self) -> int:
        """How many changes the coordinator does not have yet."""
        return len(self._journal)

    def add(
        self,
        op: Any,
        caller: pb.Caller | None,
        inodes: Sequence[Inode],
        now_ns: int,
        *,
        new: Inode | None = None,
        removed: Inode | None = None,
        on_done: Callable[[pb.BatchResult], None] | None = None,
    ) -> Entry:
        """Append a change that memory shows already; it is sent soon. See `Journal.add`."""
        entry = self._journal.add(
            op, caller, inodes, self._clock.monotonic(), now_ns, new=new, removed=removed, on_done=on_done
        )
        if self._journal.has_batch:
            self.push()
        return entry

    # ------------------------------------------------------------------ waiting

    async def settle(self, inodes: Iterable[Inode]) -> None:
        """Return when the coordinator has made every change of `inodes`; raises what keeps it from that."""
        last = max((inode.last_entry for inode in inodes if inode.journaled), default=0)
        if last:
            await self.settle_to(last)

    async def settle_all(self) -> None:
        """Return when the coordinator has made every change."""
        await self.settle_to(self._journal.last)

    async def settle_to(self, number: int) -> None:
        """Return when every entry up to `number` is settled; raises what keeps the batch from being made."""
        while self._journal.settled < number:
            failures = self._failures
            self.push()
            await self._settled.park()
            if self._failures != failures and self._failure is not None and self._journal.settled < number:
                raise CairnError(self._failure.code, self._failure.detail)

    # ------------------------------------------------------------------ sending

    def push(self) -> None:
        """Send what waits, now."""
        if not self._sending and len(self._journal):
            self._sending = True
            self._spawn(self._send)

    def push_old(self) -> None:
        """Send what waits if it has waited long enough."""
        if self._clock.monotonic() - self._journal.oldest_s >= limits.JOURNAL_AGE_S:
            self.push()

    async def _send(self) -> None:
        try:
            while (batch := self._journal.take()) is not None:
                failures = self._failures
                try:
                    await self._session.call(batch, deadline_s=float("inf"))
                except CairnError as error:
                    log.debug("a batch was not executed", error=str(error))
                if self._failures != failures:
                    await trio.sleep(RETRY_S)
        finally:
            self._sending = False

    # ------------------------------------------------------------------ what the session stream brings

    def replied(self, reply: pb.Reply) -> None:
        """Settle what the batch under way came to; called in the order of the stream."""
        if reply.error == common.ERROR_CODE_OK:
            failed = self._journal.executed(reply.batch)
        else:
            failed = self._not_executed(CairnError(reply.error, reply.detail))
        self._settled.unpark_all()
        for entry in failed:
            self._refuted(entry, entry.error or CairnError(common.ERROR_CODE_INTERNAL))

    def _not_executed(self, error: CairnError) -> list[Entry]:
        if not traits(error.code).retryable:
            return self._journal.refused(error)
        if self._failures == 0 or self._failure is None or self._failure.code != error.code:
            log.warning("changes cannot be saved now; they are tried again", error=str(error))
        self._failures += 1
        self._failure = error
        self._journal.returned()
        return []

    def session_lost(self, error: CairnError) -> list[Entry]:
        """The session was fenced: what was not executed is lost. Returns it."""
        lost = self._journal.drop(error)
        self._settled.unpark_all()
        return lost
