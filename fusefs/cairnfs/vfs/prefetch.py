"""Fetches ahead of programs that go through directories: listings, and the content of small files.

`walks.py` recognizes them; here is what is asked for because of it. Replies come into the caches through
`events.py` as all others do, under the same leases, so nothing here can make an answer stale.
"""

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from stat import S_ISDIR, S_ISREG

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.base.reserved import HIDDEN_NAMES
from cairnfs.rpc.v1 import metadata_pb2 as pb
from cairnfs.vfs.chunk_source import ChunkSource
from cairnfs.vfs.contents import Contents
from cairnfs.vfs.extents import Extent
from cairnfs.vfs.inodes import WRITE_LEASE, Inode
from cairnfs.vfs.state import State
from cairnfs.vfs.tasks import run_all
from cairnfs.vfs.walks import MISSES_MIN, PAUSE_S, DirectoryWalk, Entry, Page, TreeWalk

log = get_logger(__name__)

FILES_AT_ONCE_MAX = 512
CONTENT_PAGE_ENTRIES = 256
AHEAD_PAGE_ENTRIES = 256  # of a directory that nobody has looked at yet
DIRECTORIES_AT_ONCE_MAX = 16
LISTING_PATIENCE_S = 0.1  # how long a lookup waits for a listing before it asks by itself
SIBLINGS_SEEN_MAX = 128  # looked at for directories that are worth listing


class Prefetcher:
    """Watches what is done to the directories of one mount and fetches what will be wanted next.

    The methods without `async` are told of calls; they cost little and raise nothing.
    """

    def __init__(self, state: State, source: ChunkSource, contents: Contents) -> None:
        self._state = state
        self._source = source
        self._contents = contents
        self._walks: OrderedDict[int, DirectoryWalk] = OrderedDict()
        self._tree = TreeWalk()
        self._arriving: dict[int, trio.Event] = {}  # starts of listings, by directory
        self._expected: dict[int, tuple[int, DirectoryWalk]] = {}  # by inode: directory and walk
        self._content_used_s = float("-inf")
        self._memory_bytes = min(limits.PREFETCH_UNUSED_MAX_BYTES, state.policy.read_cache_max_bytes // 4)

    # ------------------------------------------------------------------ what programs do

    def missed(self, directory: Inode, name: bytes) -> None:
        """A lookup of `name` goes to the coordinator."""
        if directory.lease == WRITE_LEASE or directory.ino == limits.TRASH_INO:
            return  # what is not known of it is about to be made here, or is never believed
        now_s = self._state.clock.monotonic()
        walk = self._walk(directory.ino)
        walk.missed(name, now_s)
        walk.count_use(self._referenced)
        self._tree.visited(directory.ino, now_s, cold=True)
        page = walk.page(eager=self._tree.walking(now_s))
        if page is not None:
            walk.paging = True
            if page.after == b"" and self._tree.walking(now_s):
                self._arriving[directory.ino] = trio.Event()
            self._state.spawn(self._look_up_ahead, directory, walk, page)
        self._list_ahead(directory, now_s)

    async def listed_ahead(self, directory: Inode) -> bool:
        """Wait for the start of the directory's listing, if it is on its way because a tree is gone through.

        Whoever asks for one name will ask for others. Not for long: a listing may have to wait for writers.
        """
        arriving = self._arriving.get(directory.ino)
        if arriving is None:
            return False
        with trio.move_on_after(LISTING_PATIENCE_S):
            await arriving.wait()
        return True

    def visited(self, directory: Inode, *, cold: bool) -> None:
        """A program begins to list a directory; `cold`: the coordinator has to be asked."""
        if directory.ino == limits.TRASH_INO:
            return
        now_s = self._state.clock.monotonic()
        self._tree.visited(directory.ino, now_s, cold=cold)
        walk = self._walks.get(directory.ino)
        if walk is not None:
            self._start_contents(directory, walk, now_s)
        self._list_ahead(directory, now_s)

    def listed(self, directory: Inode, after: bytes, reply: pb.ReadDirReply, epoch: int) -> None:
        """A page of a listing that a program asked for has arrived; see `DirectoryWalk.listed`."""
        if directory.ino == limits.TRASH_INO:
            return
        now_s = self._state.clock.monotonic()
        walk = self._walk(directory.ino)
        walk.listed(after, _entries(reply.entries), end=reply.end, epoch=epoch)
        self._start_contents(directory, walk, now_s)
        self._list_ahead(directory, now_s)

    def opened(self, inode: Inode) -> None:
        """A program opened a file, and may have read it without this program."""
        if inode.ino in self._expected:
            self.reading(inode)

    def reading(self, inode: Inode) -> None:
        """A program begins to read a file."""
        found = self._expected.pop(inode.ino, None)
        now_s = self._state.clock.monotonic()
        if found is not None:
            directory, walk = found
            walk.read_expected(inode.ino, now_s)
            self._content_used_s = now_s
            self._tree.contents.used += walk.foretold
            walk.foretold = False
        else:
            size_bytes = inode.attr.size if inode.attr is not None else 0
            if not 0 < size_bytes <= limits.PREFETCH_FILE_MAX_BYTES or self._at_hand(inode):
                return
            directory, found_walk = self._containing(inode.ino)
            if found_walk is None:
                return
            walk = found_walk
            walk.read_cold(inode.ino, size_bytes, now_s)
            self._tree.contents.asked += walk.cold_reads == MISSES_MIN
        parent = self._state.inodes.find(directory)
        if parent is not None and walk.wants_contents:
            walk.fetching = True
            self._state.spawn(self._fetch_files, parent, walk, inode.ino)

    @property
    def located_bytes(self) -> int:
        """Up to which size files should be located by listings that are asked for now; 0: none."""
        recently = self._state.clock.monotonic() - self._content_used_s <= PAUSE_S
        return limits.PREFETCH_FILE_MAX_BYTES if recently and self._tree.contents.left else 0

    # ------------------------------------------------------------------ what is known

    def _walk(self, ino: int) -> DirectoryWalk:
        walk = self._walks.get(ino)
        if walk is None:
            self._forget_old_walks()
            walk = self._walks[ino] = DirectoryWalk()
        else:
            self._walks.move_to_end(ino)
        return walk

    def _forget_old_walks(self) -> None:
        entries = sum(len(walk.listing) for walk in self._walks.values())
        while len(self._walks) >= limits.WALKS_MAX or entries > limits.WALK_ENTRIES_MAX:
            _, old = self._walks.popitem(last=False)
            entries -= len(old.listing)
            for expected in old.expected:
                self._expected.pop(expected, None)

    def _containing(self, ino: int) -> tuple[int, DirectoryWalk | None]:
        """The directory in which a program seems to have found a file."""
        for directory, walk in reversed(self._walks.items()):
            if walk.position(ino) is not None:
                return directory, walk
            inode = self._state.inodes.find(directory)
            if inode is not None and any(inode.entries.get(name) == ino for name in walk.recent):
                return directory, walk
        return 0, None

    def _referenced(self, ino: int) -> bool:
        inode = self._state.inodes.find(ino)
        return inode is not None and inode.count_lookups() > 0

    def _located(self, inode: Inode) -> bool:
        return self._state.leased(inode) and inode.extents.knows(0, 1)

    def _extents(self, inode: Inode) -> list[Extent]:
        """Of a small file; none unless it is known where its bytes are."""
        if inode.attr is None or not self._located(inode):
            return []
        return inode.extents.within(0, max(inode.attr.size, 1))

    def _at_hand(self, inode: Inode) -> bool:
        """Whether reading a small file needs nobody else."""
        if not self._located(inode) or inode.attr is None:
            return False
        extents = inode.extents.within(0, inode.attr.size)
        return all(self._source.at_hand(each) or self._contents.place(each) is not None for each in extents)

    # ------------------------------------------------------------------ names

    async def _look_up_ahead(self, directory: Inode, walk: DirectoryWalk, page: Page) -> None:
        wanted: Page | None = page
        try:
            while wanted is not None:
                reply = await self._page(directory, walk, wanted)
                walk.fetched([entry.attr.ino for entry in reply.entries], more=wanted is not page)
                self._start_contents(directory, walk, self._state.clock.monotonic())
                wanted = walk.next_page() if reply.entries else None
        except CairnError as error:
            log.debug("looking up ahead failed", ino=directory.ino, error=str(error))
        finally:
            walk.paging = False

    async def _page(self, directory: Inode, walk: DirectoryWalk, page: Page) -> pb.ReadDirReply:
        """Ask for a page and note what it says. Raises what the session raises."""
        epoch = directory.epoch
        located_bytes = limits.PREFETCH_FILE_MAX_BYTES if walk.cold_reads else self.located_bytes
        op = pb.ReadDir(ino=directory.ino, after=page.after, limit=page.limit, small_file_bytes=located_bytes)
        try:
            reply: pb.ReadDirReply = await self._state.session.call(op)
        finally:
            arrived = self._arriving.pop(directory.ino, None)
            if arrived is not None:
                arrived.set()
        sound = reply.leased and directory.epoch == epoch
        walk.listed(page.after, _entries(reply.entries), end=reply.end, epoch=epoch if sound else -1)
        if walk.whole and walk.epoch == directory.epoch and self._state.entries_leased(directory):
            directory.complete = True
        if sound and not (page.after == b"" and self._state.publish_listing(directory)):
            self._state.publish_entries(directory, reply.entries)  # programs will look most of them up
        return reply

    # ------------------------------------------------------------------ trees

    def _list_ahead(self, directory: Inode, now_s: float) -> None:
        """List the directories that a walk through a tree comes to next: those inside, then those beside."""
        if not self._tree.walking(now_s):
            return
        left = min(self._tree.directories.left, DIRECTORIES_AT_ONCE_MAX)
        if not left:
            return
        for ino in self._directories_behind(directory):
            if ino in self._tree.expected or not self._worth_listing(ino):
                continue
            self._tree.take(ino)
            self._arriving[ino] = trio.Event()
            self._state.spawn(self._list_one, ino)
            left -= 1
            if not left:
                return

    def _directories_behind(self, directory: Inode) -> Iterable[int]:
        inside = self._walks.get(directory.ino)
        if inside is not None:
            yield from (entry.ino for entry in inside.listing[:SIBLINGS_SEEN_MAX] if entry.directory)
        beside = self._walks.get(directory.attr.parent) if directory.attr is not None else None
        position = beside.position(directory.ino) if beside is not None else None
        if beside is not None and position is not None and directory.attr is not None:
            self._walks.move_to_end(directory.attr.parent)  # it will be needed for the next one, too
            behind = beside.listing[position + 1 : position + 1 + SIBLINGS_SEEN_MAX]
            yield from (entry.ino for entry in behind if entry.directory)

    def _worth_listing(self, ino: int) -> bool:
        inode = self._state.inodes.find(ino)
        return inode is not None and inode.lease != WRITE_LEASE and not inode.complete

    async def _list_one(self, ino: int) -> None:
        directory = self._state.inodes.get(ino)
        walk = self._walk(ino)
        try:
            await self._page(directory, walk, Page(b"", AHEAD_PAGE_ENTRIES))
        except CairnError as error:
            log.debug("listing ahead failed", ino=ino, error=str(error))
        else:
            self._start_contents(directory, walk, self._state.clock.monotonic())

    # ------------------------------------------------------------------ contents

    def _start_contents(self, directory: Inode, walk: DirectoryWalk, now_s: float) -> None:
        """Fetch the first files of a directory when those of the ones before it were read, too."""
        if self.located_bytes and walk.listing and not walk.fetching and walk.expect_reads(now_s):
            self._tree.contents.fetched += 1
            walk.fetching = True
            self._state.spawn(self._fetch_files, directory, walk, 0)

    async def _fetch_files(self, directory: Inode, walk: DirectoryWalk, ino: int) -> None:
        """Fetch small files behind the one with number `ino`, or from the start of the listing (0)."""
        files: list[Entry] = []
        try:
            if ino and walk.position(ino) is None:
                name = next((name for name in walk.recent if directory.entries.get(name) == ino), b"")
                await self._page(directory, walk, Page(name, CONTENT_PAGE_ENTRIES))
            files = self._choose(directory, walk, ino)
            if not files and not walk.ended:
                await self._page(directory, walk, Page(walk.end, CONTENT_PAGE_ENTRIES))
                files = self._choose(directory, walk, ino)
            elif not files:
                walk.exhausted = next(walk.files_behind(-1), None) is None
            await self._locate(directory, walk, files)
            await self._fetch_contents(files)
        except CairnError as error:
            log.debug("reading small files ahead failed", ino=directory.ino, error=str(error))
        finally:
            walk.fetching = False
            for entry in files:
                if not self._is_at_hand(entry) and self._expected.pop(entry.ino, None) is not None:
                    walk.give_up(entry.ino)

    def _choose(self, directory: Inode, walk: DirectoryWalk, ino: int) -> list[Entry]:
        now_s = self._state.clock.monotonic()
        unused = sum(each.unused_bytes(now_s) for each in self._walks.values())
        left = min(walk.contents.left, self._memory_bytes - unused)
        files: list[Entry] = []
        position = walk.position(ino)
        for entry in walk.files_behind(-1 if position is None else position):
            left -= entry.small_bytes
            if left < 0 or len(files) >= FILES_AT_ONCE_MAX:
                break
            files.append(entry)
        for entry in files:
            walk.take(entry)
            self._expected[entry.ino] = directory.ino, walk
        return files

    async def _locate(self, directory: Inode, walk: DirectoryWalk, files: Sequence[Entry]) -> None:
        """Ask where the bytes of files are, of many files with each request."""
        unknown = [entry.name for entry in files if not self._is_located(entry)]
        names = [entry.name for entry in walk.listing]
        behind = b""
        while unknown:
            first, last = bisect_left(names, unknown[0]), bisect_left(names, unknown[-1])
            # Others may have put names in between: every page goes on behind the one before.
            after = max(behind, names[first - 1] if first else walk.after)
            limit = min(max(last + 1 - first, 1), limits.READDIR_LIMIT_MAX)
            reply = await self._page(directory, walk, Page(after, limit))
            if reply.end or not reply.entries:
                return
            behind = reply.entries[-1].name
            unknown = [name for name in unknown if name > behind]

    async def _fetch_contents(self, files: Iterable[Entry]) -> None:
        """Publish where located files are on this host, and have the chunks of others in memory."""
        inodes = [inode for entry in files if (inode := self._state.inodes.find(entry.ino)) is not None]
        wanted = [extent for inode in inodes for extent in self._extents(inode)]
        unknown = [extent for extent in wanted if self._contents.place(extent) is None]
        await self._state.chunks.find_places([(extent.chunk_id, extent.nodes) for extent in unknown])
        queue = deque(inode for inode in inodes if not self._contents.publish_file(inode))

        async def work() -> None:
            while queue:
                for extent in self._extents(queue.popleft()):
                    if extent.chunk_length <= limits.PREFETCH_FILE_MAX_BYTES:
                        await self._source.whole(extent)

        await run_all(work for _ in range(min(len(queue), limits.PREFETCH_CONCURRENT_MAX)))

    def _is_located(self, entry: Entry) -> bool:
        inode = self._state.inodes.find(entry.ino)
        return inode is not None and self._located(inode)

    def _is_at_hand(self, entry: Entry) -> bool:
        inode = self._state.inodes.find(entry.ino)
        return inode is not None and self._at_hand(inode)


def _entries(listed: Iterable[pb.DirEntry]) -> list[Entry]:
    entries: list[Entry] = []
    for each in listed:
        attr = each.attr
        mode, size = attr.mode, attr.size
        small_bytes = size if S_ISREG(mode) and size <= limits.PREFETCH_FILE_MAX_BYTES else 0
        is_visited = S_ISDIR(mode) and each.name not in HIDDEN_NAMES
        entries.append(Entry(each.name, attr.ino, small_bytes, is_visited))
    return entries
