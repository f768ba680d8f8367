"""The journal: changes made here under WRITE leases and not yet known to the coordinator; no I/O, no clock.

docs/internals/leases.md has the rules.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.inodes import Inode

_FIELDS: Final = {
    field.message_type.full_name: field.name
    for field in pb.BatchEntry.DESCRIPTOR.oneofs_by_name["op"].fields
    if field.message_type is not None
}
_DONE: Final = pb.BatchResult()


@dataclass(slots=True, eq=False)
class Entry:
    """One change. `inodes` are all that it touches, a new one included."""

    number: int
    message: pb.BatchEntry
    inodes: tuple[Inode, ...]
    since_s: float
    removed: Inode | None = None  # what loses a name
    on_done: Callable[[pb.BatchResult], None] | None = None
    result: pb.BatchResult | None = None  # once it is settled

    @property
    def error(self) -> CairnError | None:
        """Why the coordinator did not make the change; None also before it has answered."""
        if self.result is None or self.result.error == common.ERROR_CODE_OK:
            return None
        return CairnError(self.result.error, self.result.detail)


class Journal:
    """Entries in order: some sent and unanswered, the others waiting. Settled ones are gone."""

    def __init__(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._sent: list[Entry] = []
        self._last = 0
        self.settled = 0  # every entry up to this number

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def last(self) -> int:
        """The number of the newest entry."""
        return self._last

    @property
    def has_room(self) -> bool:
        """Whether another change may be made here."""
        return len(self) < limits.JOURNAL_MAX_ENTRIES

    @property
    def has_batch(self) -> bool:
        """Whether so many entries wait that sending them now costs nothing extra."""
        return len(self._waiting) >= limits.JOURNAL_BATCH_ENTRIES

    @property
    def oldest_s(self) -> float:
        """When the first waiting entry was added; infinite when none waits."""
        return self._waiting[0].since_s if self._waiting else float("inf")

    def add(
        self,
        op: Any,
        caller: pb.Caller | None,
        inodes: Sequence[Inode],
        now_s: float,
        now_ns: int,
        *,
        new: Inode | None = None,
        removed: Inode | None = None,
        on_done: Callable[[pb.BatchResult], None] | None = None,
    ) -> Entry:
        """Append the change `op`, which touches `inodes` and makes `new`; `on_done` hears of its success."""
        message = pb.BatchEntry(caller=caller, now_ns=now_ns, touches=[inode.ino for inode in inodes])
        getattr(message, _FIELDS[op.DESCRIPTOR.full_name]).CopyFrom(op)
        touched = tuple(inodes)
        if new is not None:
            message.new_ino = new.ino
            touched = (*touched, new)
        self._last += 1
        entry = Entry(self._last, message, touched, now_s, removed, on_done)
        for inode in touched:
            inode.journaled += 1
            inode.last_entry = entry.number
        self._waiting.append(entry)
        return entry

    def take(self) -> pb.Batch | None:
        """What to send now; nothing while a batch is unanswered or no entry waits."""
        if self._sent or not self._waiting:
            return None
        batch = pb.Batch()
        size_bytes = 0
        while self._waiting and len(self._sent) < limits.JOURNAL_BATCH_ENTRIES:
            entry = self._waiting[0]
            size_bytes += entry.message.ByteSize()
            if self._sent and size_bytes > limits.JOURNAL_BATCH_MAX_BYTES:
                break
            self._waiting.popleft()
            self._sent.append(entry)
            if entry.removed is not None:
                _note_open(entry.message, entry.removed)
            batch.entries.append(entry.message)
        return batch

    def executed(self, reply: pb.BatchReply) -> list[Entry]:
        """The sent batch was executed as far as `reply` says; returns entries that failed unexpectedly."""
        results = {result.index: result for result in reply.results}
        sent, self._sent = self._sent, []
        self._waiting.extendleft(reversed(sent[reply.executed :]))
        failed: list[Entry] = []
        for index, entry in enumerate(sent[: reply.executed]):
            result = results.get(index, _DONE)
            self._settle(entry, result)
            if result.error == common.ERROR_CODE_OK:
                if entry.on_done is not None:
                    entry.on_done(result)
            elif entry.on_done is None:
                failed.append(entry)
        return failed

    def returned(self) -> None:
        """The sent batch changed nothing and is to be sent again."""
        sent, self._sent = self._sent, []
        self._waiting.extendleft(reversed(sent))

    def refused(self, error: CairnError) -> list[Entry]:
        """The sent batch changed nothing and never will; returns its entries that nobody waits for."""
        count = len(self._sent)
        results = [pb.BatchResult(index=i, error=error.code, detail=error.detail) for i in range(count)]
        return self.executed(pb.BatchReply(executed=count, results=results))

    def drop(self, error: CairnError) -> list[Entry]:
        """Forget everything: the session has ended. Returns what is lost."""
        lost = [*self._sent, *self._waiting]
        self._sent = []
        self._waiting.clear()
        for entry in lost:
            self._settle(entry, pb.BatchResult(error=error.code, detail=error.detail))
        return lost

    def _settle(self, entry: Entry, result: pb.BatchResult) -> None:
        entry.result = result
        self.settled = entry.number
        for inode in entry.inodes:
            inode.journaled -= 1


def _note_open(message: pb.BatchEntry, removed: Inode) -> None:
    """Tell with a removal that a file is open here, or has yet to be saved for others; Release ends it.

    Also of one that goes into the trash: should that have been given up meanwhile, nothing is lost.
    """
    if removed.attr is None:
        return
    kept = removed.attr.realm == limits.TRASH_INO
    if removed.attr.nlink and not kept:
        return
    if not (removed.handles or ((removed.exposed or kept) and removed.unsaved)):
        return
    op = getattr(message, message.WhichOneof("op") or "")
    op.keep_open = True
    removed.registered = True
