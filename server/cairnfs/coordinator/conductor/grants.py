"""Which leases ride on which reply: one entry per kind of result.

`inodes_told` says whose attributes or entries a result carries; `grant` fills in the lease fields.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from cairnfs.base.limits import ROOT_INO, TRASH_INO
from cairnfs.coordinator.conductor.context import Context
from cairnfs.coordinator.leases import NONE, READ
from cairnfs.rpc.v1 import metadata_pb2 as pb


class Grants:
    """Gives out leases with replies, as far as pending changes and WRITE leases of others allow."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._granters: Final[dict[str, Callable[[str, Any, pb.Reply], None]]] = {
            "entry": self._entry,
            "attr": self._attr,
            "xattr": self._xattr,
            "readdir": self._readdir,
        }

    def grant(self, session_id: str, op: Any, reply: pb.Reply, result: str) -> None:
        """Fill in the lease fields of `reply` to `op`, the newest state there is; records what is granted."""
        granter = self._granters.get(result)
        if granter is not None:
            granter(session_id, op, reply)

    def lease(self, session_id: str, ino: int) -> "pb.LeaseKind.ValueType":
        """The lease that attributes of `ino`, read just now, can be sent with; it is recorded."""
        return NONE if self._context.leases.blocked(ino) else self._unblocked(session_id, ino)

    def _unblocked(self, session_id: str, ino: int) -> "pb.LeaseKind.ValueType":
        """The lease, given that no pending change is in the way. What the trash has, nobody may believe."""
        if ino == TRASH_INO:
            return NONE
        writer = self._context.leases.writer(ino)
        if writer is not None:
            return self._context.believed(session_id, ino) if writer == session_id else NONE
        self._context.grant_read(session_id, ino)
        return READ

    def pages(self, session_id: str, ino: int) -> "pb.LeaseKind.ValueType":
        """The lease for extents, which the kernel's pages make necessary even while a change is pending.

        No other session may hold the WRITE lease.
        """
        context = self._context
        for change in context.leases.pending(ino):
            change.granted_meanwhile(session_id, ino)
        context.grant_read(session_id, ino)
        return context.believed(session_id, ino)

    def learned(self, session_id: str, touches: Iterable[tuple[int, tuple[bytes, ...]]]) -> None:
        """The session is told entries that it changed itself; changes of others still pending on the same
        entries recalled them from it before, and must do so again.
        """
        leases = self._context.leases
        for ino, names in touches:
            for change in leases.pending(ino) if names else ():
                if change.session_id != session_id and not set(change.touches[ino].names).isdisjoint(names):
                    change.granted_meanwhile(session_id, ino)

    # ------------------------------------------------------------------ kinds of results

    def _entry(self, session_id: str, op: Any, reply: pb.Reply) -> None:
        entry = reply.entry
        if not self._context.leases.blocked(op.parent, op.name):
            entry.parent_leased = self._unblocked(session_id, op.parent) != NONE
            # A directory in use is not the one whose lease is recalled when there are too many.
            self._context.leases.renew(session_id, op.parent)
        if entry.HasField("attr"):
            entry.lease = self.lease(session_id, entry.attr.ino)

    def _attr(self, session_id: str, _op: Any, reply: pb.Reply) -> None:
        reply.attr.lease = self.lease(session_id, reply.attr.attr.ino)

    def _xattr(self, session_id: str, op: Any, reply: pb.Reply) -> None:
        reply.xattr.lease = self.lease(session_id, op.ino)

    def _readdir(self, session_id: str, op: Any, reply: pb.Reply) -> None:
        listing = reply.readdir
        listing.leased = self.lease(session_id, op.ino) != NONE
        self._context.leases.renew(session_id, op.ino)
        if op.names_only:
            return
        inos = [entry.attr.ino for entry in listing.entries]
        if op.ino == ROOT_INO and TRASH_INO in inos:
            listing.entries[inos.index(TRASH_INO)].lease = NONE
            inos.remove(TRASH_INO)
        others = self._context.grant_reads(session_id, inos)
        if not others:
            return
        for entry in listing.entries:
            if entry.attr.ino in others:
                entry.lease = self.lease(session_id, entry.attr.ino)


def inodes_told(result: str, op: Any, value: Any) -> list[int]:
    """Inodes about which `value` tells something: attributes, extents or entries."""
    if result == "entry":
        # Directories and others' WRITE leases on them decide about a name, also about one that is not there.
        return [op.parent, value.attr.ino] if value.HasField("attr") else [op.parent]
    if result == "readdir" and op.names_only:
        return [op.ino]
    if result == "readdir":
        return [op.ino, *(entry.attr.ino for entry in value.entries)]
    if result in ("attr", "xattr", "extents", "open", "readlink"):
        return [op.ino]
    return []
