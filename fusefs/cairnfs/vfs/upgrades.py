"""Asks for WRITE leases on directories in which this mount changes one entry after another."""

from collections.abc import Iterator
from itertools import islice

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.rpc.v1 import metadata_pb2 as pb
from cairnfs.vfs.inodes import NO_LEASE, READ_LEASE, WRITE_LEASE, Inode
from cairnfs.vfs.state import State

log = get_logger(__name__)

LISTED_PAGES_MAX = 8  # a directory with more entries is not learned as a whole


class Upgrades:
    """Decides when to ask; what was granted is applied with the reply (events.py)."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def before_change(self, directory: Inode, *children: Inode | None) -> None:
        """Get the leases for a change of `directory` and `children`, if that is worth a request now."""
        now_s = self._state.clock.monotonic()
        if (
            not self._state.trusted
            or self._state.policy.sync_on_close
            or directory.lease == NO_LEASE
            or now_s < directory.upgrade_at_s
        ):
            return
        if directory.lease == READ_LEASE:
            again = now_s - directory.changed_s < limits.UPGRADE_WINDOW_S
            directory.changed_s = now_s
            if not again:
                return
        elif all(child is None or child.lease != READ_LEASE for child in children):
            return
        # Another change of this directory that arrives meanwhile does not ask as well.
        directory.upgrade_at_s = now_s + limits.UPGRADE_PAUSE_MIN_S
        try:
            await self._ask(directory)
        except CairnError as error:
            log.debug("no write lease", ino=directory.ino, error=str(error))

    async def _ask(self, directory: Inode) -> None:
        children = list(islice(self._readable_children(directory), limits.UPGRADE_CHILDREN_MAX))
        reply: pb.UpgradeReply = await self._state.session.call(
            pb.Upgrade(directory=directory.ino, children=children)
        )
        now_s = self._state.clock.monotonic()
        if reply.granted:
            directory.upgrade_pause_s = 0.0
            if not directory.complete:
                self._state.spawn(self._learn_all, directory)
            return
        pause_s = min(
            max(directory.upgrade_pause_s * 2, limits.UPGRADE_PAUSE_MIN_S), limits.UPGRADE_PAUSE_MAX_S
        )
        directory.upgrade_pause_s = pause_s
        directory.upgrade_at_s = now_s + pause_s

    def _readable_children(self, directory: Inode) -> Iterator[int]:
        find = self._state.inodes.find
        for ino in directory.entries.values():
            inode = find(ino) if ino else None
            if inode is not None and inode.lease == READ_LEASE:
                yield inode.ino

    async def _learn_all(self, directory: Inode) -> None:
        """List the directory, so that a name that is not known is known to be absent."""
        epoch, after = directory.epoch, b""
        for _ in range(LISTED_PAGES_MAX):
            try:
                reply: pb.ReadDirReply = await self._state.session.call(
                    pb.ReadDir(ino=directory.ino, after=after, limit=limits.READDIR_LIMIT_MAX)
                )
            except CairnError:
                return
            if not reply.leased or directory.epoch != epoch or directory.lease != WRITE_LEASE:
                return  # what was told may not be believed
            if reply.end:
                directory.complete = True
                return
            after = reply.entries[-1].name
