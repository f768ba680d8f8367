"""Answers recalls: forget at once, then flush, invalidate the kernel's copy, acknowledge."""

from collections.abc import Iterable

import trio

from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.flusher import Flusher
from cairnfs.vfs.inodes import NO_LEASE, WRITE_LEASE, Inode
from cairnfs.vfs.local import LocalChanges
from cairnfs.vfs.state import State

log = get_logger(__name__)


class Recalls:
    """Carries out recalls and the loss of leases."""

    def __init__(self, state: State, flusher: Flusher, local: LocalChanges) -> None:
        self._state = state
        self._flusher = flusher
        self._local = local
        self._unanswered: list[dict[int, int]] = []  # of each recall: inodes, and what leases they had

    def unanswered(self) -> dict[int, int]:
        """Inodes and the leases they had when recalls that are not answered yet came for them.

        Another coordinator must not take them for free: bytes may be unsent, or the kernel not told yet.
        """
        held: dict[int, int] = {}
        for leases in self._unanswered:
            for ino, lease in leases.items():
                held[ino] = max(lease, held.get(ino, NO_LEASE))
        return held

    def begin(self, recall: pb.Recall) -> None:
        """Forget what is recalled, in the step that received it, and start the rest."""
        self._take_absorbed(item.ino for item in recall.items)
        work: list[tuple[Inode, pb.RecallItem, list[bytes]]] = []
        leases: dict[int, int] = {}
        for item in recall.items:
            inode = self._state.inodes.find(item.ino)
            if inode is not None:
                leases[item.ino] = inode.lease
                work.append((inode, item, self._forget(inode, item)))
        self._unanswered.append(leases)
        self._state.spawn(self._finish, recall.id, work, leases)

    def _take_absorbed(self, inos: Iterable[int]) -> None:
        """Let no more be written to these inodes without Python, and know what was."""
        for ino in inos:
            inode = self._state.inodes.find(ino)
            if inode is not None:
                inode.absorb_no_more()
        self._flusher.take_absorbed()

    def _forget(self, inode: Inode, item: pb.RecallItem) -> list[bytes]:
        """Drop what `item` names from the cache; returns the entries the kernel must forget."""
        if item.names:
            inode.forget_attributes()
            for name in item.names:
                inode.forget_entry(name)
            return list(item.names)
        if item.attributes_only and inode.lease != WRITE_LEASE:
            inode.forget_attributes()
            return []
        names = list(inode.entries)
        inode.drop_lease(item.keep)
        if inode.lease == NO_LEASE:
            return names
        if item.attributes_only:
            inode.forget_attributes()
        return []

    async def _finish(
        self, recall_id: int, work: list[tuple[Inode, pb.RecallItem, list[bytes]]], leases: dict[int, int]
    ) -> None:
        async with trio.open_nursery() as nursery:
            for inode, item, names in work:
                nursery.start_soon(self._give_up, inode, item, names)
        opened = [inode for inode, _, _ in work if inode.handles]
        for inode in opened:
            inode.registered = True
        self._unanswered = [others for others in self._unanswered if others is not leases]
        self._state.session.recall_done(
            recall_id,
            [inode.ino for inode in opened],
            [inode.ino for inode in opened if inode.writers],
        )

    async def _give_up(self, inode: Inode, item: pb.RecallItem, names: list[bytes]) -> None:
        if inode.unsaved or inode.journaled:
            try:
                await self._flusher.flush(inode)
            except CairnError as error:
                log.warning("unsent writes could not be saved for a recall", ino=inode.ino, error=str(error))
        if not (inode.count_lookups() or inode.handles):
            return
        if names and inode.mutations:
            # Our own request holds the directory's lock in the kernel and waits for the coordinator,
            # which may wait for this acknowledgement.
            self._state.notifier.expire_entries()
            self._state.spawn(self._state.notifier.invalidate_entries, inode.ino, names)
        elif names:
            await self._state.notifier.invalidate_entries(inode.ino, names)
        if item.keep == NO_LEASE or item.attributes_only:
            data = not (item.names or item.attributes_only)
            await self._state.notifier.invalidate_inode(inode.ino, data=data)

    async def save_all(self, number: int) -> None:
        """Save what is unsent now, and say so."""
        error: CairnError | None = None
        try:
            await self._flusher.flush_present()
        except CairnError as refusal:
            error = refusal
        self._state.session.flush_done(number, error)

    def leases_lost(self, inos: Iterable[int]) -> None:
        """Leases that were not reclaimed: as after a recall, without an acknowledgement."""
        lost = list(inos)
        self._take_absorbed(lost)
        for ino in lost:
            inode = self._state.inodes.find(ino)
            if inode is not None:
                item = pb.RecallItem(ino=ino, keep=pb.LEASE_KIND_NONE)
                self._state.spawn(self._give_up, inode, item, self._forget(inode, item))

    def session_lost(self) -> None:
        """The session was fenced: unsent writes of it cannot be saved any more, and locks are gone."""
        error = CairnError(common.ERROR_CODE_SESSION_FENCED, "the session had ended")
        self._state.sessions_lost += 1
        self._take_absorbed([inode.ino for inode in self._state.inodes])
        self._state.locks.clear()
        self._local.numbers.forget()
        lost = self._state.journal.session_lost(error)
        for entry in lost:
            for inode in entry.inodes:
                inode.error = error
        written = 0
        for inode in self._state.inodes:
            inode.registered = False
            if inode.unsaved:
                written += 1
                self._flusher.abandon(inode, error)
        if lost or written:
            log.error("unsent writes are lost: the session had ended", files=written, changes=len(lost))

    async def reopen(self) -> None:
        """In a new session: tell the coordinator what is open here, so that it outlives its last name."""
        for inode in [inode for inode in self._state.inodes if inode.handles]:
            op = pb.Open(ino=inode.ino, write=bool(inode.writers))
            try:
                reply: pb.OpenReply = await self._state.session.call(op)
            except CairnError as error:
                log.warning("an open file did not survive its session", ino=inode.ino, error=str(error))
            else:
                inode.registered = reply.shared or reply.lease == NO_LEASE

    def invalidate_kernel(self) -> None:
        """Out of contact: drop everything the kernel caches, keep our own knowledge for a reunion."""
        known = [inode for inode in self._state.inodes if inode.count_lookups() or inode.handles]
        self._state.spawn(self._invalidate, known)

    async def _invalidate(self, inodes: list[Inode]) -> None:
        for inode in inodes:
            if inode.entries:
                await self._state.notifier.invalidate_entries(inode.ino, list(inode.entries))
            await self._state.notifier.invalidate_inode(inode.ino, data=True)
