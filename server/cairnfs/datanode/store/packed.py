"""The small chunks of a local store: appends to the newest pack, deletes, compacts, recovers.

Every public method but `read` is called with the owner's lock held, except `append`, which
`append_lock` keeps to one thread at a time so that reads go on while a disk syncs.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.datanode.store.interface import SmallChunk
from cairnfs.datanode.store.packs import Pack, PackDirectory, Record, make_record, record_bytes

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PackPlace:
    """Where a small chunk is."""

    pack: Pack
    position: int
    length: int


def _is_whole(chunk_id: bytes, place: PackPlace) -> bool:
    try:
        place.pack.read(chunk_id, place.position, place.length, 0, place.length)
    except CairnError:
        return False
    return True


class PackedChunks:
    """All packs of one store."""

    def __init__(self, root: Path) -> None:
        self.append_lock = threading.Lock()
        self._directory = PackDirectory(root)
        self._packs: dict[int, Pack] = {}
        self._active: Pack | None = None

    @property
    def disk_bytes(self) -> int:
        """Size of all packs, dead records included."""
        return sum(pack.end for pack in list(self._packs.values()))

    def recover(self) -> dict[bytes, PackPlace]:
        """Find every chunk; cut a torn end and drop torn records of the newest pack.

        What is found counts as stored, so it is made durable first: an earlier process may have been killed
        before it was.
        """
        found: dict[bytes, PackPlace] = {}
        packs = self._directory.prepare()
        for pack in packs:
            self._packs[pack.number] = pack
            pack.sealed = pack is not packs[-1]
            for record in pack.scan() if pack.sealed else self._recover_newest(pack):
                if record.live:
                    place = PackPlace(pack, record.position, record.length)
                    self._take(found, record.chunk_id, place)
        for place in found.values():
            self.adopt(place)
        if packs:
            packs[-1].sync()
        self._active = packs[-1] if packs else None
        return found

    @staticmethod
    def _take(found: dict[bytes, PackPlace], chunk_id: bytes, place: PackPlace) -> None:
        """Of two records of a chunk the later one counts: the mark of the earlier one was lost in a crash.

        It was deleted, or copied by a compaction, or found damaged and stored again. Only a damaged one does
        not count, as an append that failed may have left it.
        """
        before = found.get(chunk_id)
        if before is not None and not _is_whole(chunk_id, place):
            before, place = place, before
        if before is not None:
            before.pack.mark_dead(before.position)
        found[chunk_id] = place

    def _recover_newest(self, pack: Pack) -> list[Record]:
        """Only here may a record be torn: older packs were synced before the next one began."""
        good: list[Record] = []
        end = 0
        for record in pack.scan():
            try:
                pack.read(record.chunk_id, record.position, record.length, 0, record.length)
            except CairnError as error:
                _log.info("dropped a damaged record", pack=pack.number, detail=error.detail)
                if record.live:
                    pack.mark_dead(record.position)
                continue
            good.append(record)
            end = record.position + record_bytes(record.length)
        if end < pack.end:
            _log.info("cut the torn end of a pack", pack=pack.number, size_bytes=pack.end - end)
            pack.truncate(end)
        return good

    def append(self, chunks: Sequence[SmallChunk]) -> list[PackPlace]:
        """Write chunks with one sync. Raises CairnError NO_SPACE or IO, and then nothing was added."""
        pack, positions = self._append([make_record(chunk) for chunk in chunks])
        return [
            PackPlace(pack, position, len(chunk.data))
            for position, chunk in zip(positions, chunks, strict=True)
        ]

    def _append(self, records: Sequence[bytes]) -> tuple[Pack, list[int]]:
        pack = self._active
        if pack is None or pack.sealed or pack.end >= limits.PACK_FILE_MAX_BYTES:
            if pack is not None:
                pack.sealed = True
            pack = self._active = self._directory.create()
            self._packs[pack.number] = pack
        return pack, pack.append(records)

    def adopt(self, place: PackPlace) -> None:
        """The record is the chunk's now."""
        place.pack.live_bytes += record_bytes(place.length)

    def drop(self, place: PackPlace) -> None:
        """The record is nobody's any more."""
        place.pack.live_bytes -= record_bytes(place.length)
        place.pack.mark_dead(place.position)

    def mostly_dead(self) -> list[Pack]:
        """Packs worth compacting; the newest one is closed for it when it qualifies."""
        chosen = [
            pack
            for pack in self._packs.values()
            if pack.end and pack.dead_bytes * 100 > pack.end * limits.PACK_DEAD_PERCENT
        ]
        for pack in chosen:
            pack.sealed = True
        return chosen

    def copy(self, places: Sequence[PackPlace]) -> list[PackPlace]:
        """Append the records at `places` to the newest pack, with one sync."""
        records = [place.pack.copy_record(place.position, place.length) for place in places]
        pack, positions = self._append(records)
        return [
            PackPlace(pack, position, place.length) for position, place in zip(positions, places, strict=True)
        ]

    def remove(self, pack: Pack) -> None:
        """Delete a pack that holds no live record."""
        del self._packs[pack.number]
        if self._active is pack:
            self._active = None
        pack.remove()

    def close(self) -> None:
        """Forget the packs; their files close with their last reader."""
        self._packs.clear()
        self._active = None
