"""Publishes where on this host the bytes of files are, so that reads of them are answered without Python."""

from cairnfs.base import limits
from cairnfs.client.interface import ChunkIO, ChunkPlace
from cairnfs.vfs.answers import Content
from cairnfs.vfs.extents import Extent
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.state import State

PUBLISHED_MIN_BYTES = limits.CHECKSUM_BLOCK_BYTES


class Contents:
    """What of this mount's files can be read by descriptors of datanodes on this host."""

    def __init__(self, state: State, chunks: ChunkIO) -> None:
        self._state = state
        self._chunks = chunks

    def place(self, extent: Extent) -> ChunkPlace | None:
        """Where the chunk of an extent is, if that is known."""
        place = self._chunks.place(extent.chunk_id)
        return place if place is not None and place.length == extent.chunk_length else None

    def publish_around(self, inode: Inode, offset: int) -> None:
        """Publish the extent at `offset` of a file, as far as its place is known.

        Short parts of a longer file are left out: few reads are of one of them alone.
        """
        extent = inode.extents.at(offset) if self._may_publish(inode) else None
        if extent is None or inode.attr is None:
            return
        long_enough = extent.length >= min(PUBLISHED_MIN_BYTES, inode.attr.size)
        if long_enough and (place := self.place(extent)) is not None:
            self._publish(inode, extent, place)

    def publish_file(self, inode: Inode) -> bool:
        """Publish all of a small file; returns whether its bytes are in places that are known."""
        if inode.attr is None or not self._may_publish(inode):
            return False
        extents = inode.extents.within(0, max(inode.attr.size, 1))
        places = [self.place(extent) for extent in extents]
        if None in places:
            return False
        for extent, place in zip(extents, places, strict=True):
            if place is not None:
                self._publish(inode, extent, place)
        return True

    def _may_publish(self, inode: Inode) -> bool:
        """Whether what is committed of a file is what it holds, and a lease says so."""
        return self._state.leased(inode) and not inode.unsaved

    def _publish(self, inode: Inode, extent: Extent, place: ChunkPlace) -> None:
        answers = self._state.answers
        loan = place.file.lend(answers)
        if loan:
            content = Content(
                extent.start,
                extent.length,
                loan,
                place.position,
                extent.chunk_offset,
                place.length,
                place.checksums,
            )
            if not answers.publish_content(inode.ino, content):
                self._state.publish(inode)
                answers.publish_content(inode.ino, content)
