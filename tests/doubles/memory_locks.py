"""Locks of one file in memory: which are in each other's way, and what is left of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from cairnfs.rpc.v1 import metadata_pb2 as pb


@dataclass
class Lock:
    """A granted lock; `flock` locks cover everything."""

    owner: int
    range: pb.LockRange


def conflict(granted: Iterable[Lock], wanted: Lock) -> Lock | None:
    """A lock of another owner that forbids this one."""
    for held in granted:
        overlaps = held.range.start <= wanted.range.end and wanted.range.start <= held.range.end
        exclusive = pb.LOCK_TYPE_WRITE in (held.range.type, wanted.range.type)
        if held.owner != wanted.owner and overlaps and exclusive:
            return held
    return None


def carved(granted: Iterable[Lock], wanted: Lock) -> list[Lock]:
    """All locks after this one has taken its range from its owner's others, or has freed it."""
    kept: list[Lock] = []
    for held in granted:
        if held.owner != wanted.owner:
            kept.append(held)
            continue
        for start, end in (
            (held.range.start, min(held.range.end, wanted.range.start - 1)),
            (max(held.range.start, wanted.range.end + 1), held.range.end),
        ):
            if start <= end:
                part = pb.LockRange(type=held.range.type, start=start, end=end, pid=held.range.pid)
                kept.append(Lock(held.owner, part))
    if wanted.range.type != pb.LOCK_TYPE_UNLOCK:
        kept.append(wanted)
    return kept
