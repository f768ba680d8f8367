"""What programs on simulated mounts do, and what they note of it.

Each client has a few of them running at the same time, as threads of one process.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common
from tests.doubles.sim_kernel import PAGE, ROOT, SimFile
from tests.sim.cluster.clients import SimMount
from tests.sim.cluster.history import ABSENT, INITIAL, History, Register, Write

WORK: Final = "w"
LARGE_BYTES: Final = limits.PACK_CHUNK_MAX_BYTES + 3 * PAGE
SIZES: Final = {"a": 100, "b": 2 * PAGE, "c": 900, "d": LARGE_BYTES}  # of files that are written in place
NAMES: Final = ("x", "y")  # that are published, one version over another
REMOVED: Final = "z"  # is published, too, and removed: only its name counts
RECORD_BYTES: Final = 48
_PUBLISHED_BYTES: Final = (40, 700, PAGE + 1, 3 * PAGE)
_ABSENT: Final = (common.ERROR_CODE_NOT_FOUND, common.ERROR_CODE_STALE)


class Hang(AssertionError):
    """A call did not come back within its deadline."""


@dataclass
class Unsaved:
    """What a mount wrote and did not make durable, by file."""

    writes: dict[str, list[Write]] = field(default_factory=dict[str, list[Write]])

    def add(self, path: str, write: Write) -> None:
        """A write returned."""
        self.writes.setdefault(path, []).append(write)

    def saved(self, path: str, until_s: float) -> None:
        """An fsync that began at `until_s` returned."""
        for write in self.writes.get(path, ()):
            write.durable = write.durable or write.ended_s <= until_s

    def failed(self, path: str) -> None:
        """The file reported an error: whatever was not durable may be gone."""
        for write in self.writes.pop(path, ()):
            write.doubtful_from_s = min(write.doubtful_from_s, write.begun_s)

    def lost(self, since_s: float) -> None:
        """The mount is lost since then."""
        for writes in self.writes.values():
            for write in writes:
                write.doubtful_from_s = min(write.doubtful_from_s, since_s)
        self.writes.clear()


class Client:
    """The programs of one client host; `mount` is another one after a crash."""

    def __init__(self, name: str, rng: Random, history: History, note: Callable[[str], None]) -> None:
        self.name = name
        self.mount: SimMount | None = None
        self.unsaved = Unsaved()
        self.appended = 0  # records of the ledger that were acknowledged
        self.done = 0
        self.failed = 0
        self._appending = False
        self._rng = rng
        self._history = history
        self._note = note
        self._numbers = 0

    # ------------------------------------------------------------------ one call

    async def step(self) -> None:
        """Do something; what fails is noted as unknown."""
        mount = self.mount
        if mount is None or mount.crashed:
            await trio.sleep(0.1)
            return
        work = self._rng.choices(
            (self._overwrite, self._look, self._publish, self._look_up, self._append, self._remove),
            weights=(6, 6, 3, 5, 3, 1),
        )[0]
        await self._within_deadline(mount, work)

    async def _within_deadline(self, mount: SimMount, work: Callable[[SimMount], Awaitable[None]]) -> None:
        what = f"{self.name} {work.__name__.strip('_')}"
        with trio.CancelScope(deadline=trio.current_time() + limits.FUSE_DEADLINE_S) as scope:
            mount.calls.append(scope)
            try:
                await work(mount)
                self.done += 1
                self._note(f"{what} ok")
            except CairnError as error:
                self.failed += 1
                self._note(f"{what} {error.code}")
            except RuntimeError:
                if not mount.crashed:  # then nothing of it can be called any more
                    raise
            finally:
                mount.calls.remove(scope)
        if scope.cancelled_caught and not mount.crashed:
            raise Hang(f"{what}: no answer within {limits.FUSE_DEADLINE_S:g} s")

    # ------------------------------------------------------------------ files written in place

    def _tag(self, size: int) -> bytes:
        self._numbers += 1
        return f"{self.name}.{self._numbers};".encode() * (size // 8 + 1)

    async def _overwrite(self, mount: SimMount) -> None:
        """Write pages of a file, and perhaps fsync it."""
        name = self._rng.choice(sorted(SIZES))
        size = SIZES[name]
        path = f"{WORK}/{name}"
        file = await self._open(mount, path, os.O_RDWR)
        try:
            for _ in range(self._rng.choice((1, 1, 2, 3))):
                page = self._rng.randrange(-(-size // PAGE))
                await self._write_page(mount, file, path, page, min(PAGE, size - page * PAGE))
            if self._rng.random() < 0.5:
                await self._fsync(mount, file, path)
        finally:
            await self._close(mount, file, path)

    async def _write_page(self, mount: SimMount, file: SimFile, path: str, page: int, size: int) -> None:
        data = self._tag(size)[:size]
        write = self._history.write((path, page), _value(data), trio.current_time())
        await self._or_doubt(mount, path, lambda: file.write(page * PAGE, data))
        write.ended_s = trio.current_time()
        self._written(mount, path, write)

    def _written(self, mount: SimMount, path: str, write: Write) -> None:
        if mount is self.mount:
            self.unsaved.add(path, write)
        else:
            write.doubtful_from_s = write.begun_s  # it crashed meanwhile

    async def _fsync(self, mount: SimMount, file: SimFile, path: str) -> None:
        begun_s = trio.current_time()
        await self._or_doubt(mount, path, file.fsync)
        if mount is self.mount:
            self.unsaved.saved(path, begun_s)

    async def _close(self, mount: SimMount, file: SimFile, path: str) -> None:
        with trio.CancelScope(shield=not mount.crashed, deadline=trio.current_time() + 30):
            await self._or_doubt(mount, path, file.close)

    async def _or_doubt(self, mount: SimMount, path: str, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except CairnError:
            if mount is self.mount:
                self.unsaved.failed(path)
            raise

    async def _open(self, mount: SimMount, path: str, flags: int) -> SimFile:
        return await mount.kernel.open(f"/{path}", flags)

    async def _look(self, mount: SimMount) -> None:
        """Read a page of a file."""
        name = self._rng.choice(sorted(SIZES))
        await self.look_at(mount, name, self._rng.randrange(-(-SIZES[name] // PAGE)))

    async def look_at(self, mount: SimMount, name: str, page: int) -> None:
        """Read one page of a file that is written in place."""
        path, size = f"{WORK}/{name}", SIZES[name]
        file = await self._open(mount, path, os.O_RDONLY)
        try:
            begun_s = trio.current_time()
            data = await file.read(page * PAGE, min(PAGE, size - page * PAGE))
            self._history.read((path, page), _value(data), begun_s, trio.current_time(), self.name)
        finally:
            await self._close(mount, file, path)

    # ------------------------------------------------------------------ names

    async def _publish(self, mount: SimMount) -> None:
        """Write a new file and rename it over another, as editors do."""
        kernel = mount.kernel
        name, size = self._rng.choice((*NAMES, REMOVED)), self._rng.choice(_PUBLISHED_BYTES)
        data = self._tag(size)[:size] + b"."
        self._numbers += 1
        temp, path = f"{WORK}/{self.name}-{self._numbers}.new", f"{WORK}/{name}"
        file = await self._open(mount, temp, os.O_CREAT | os.O_RDWR)
        try:
            await file.write(0, data)
            if self._rng.random() < 0.3:
                await file.fsync()
        finally:
            await self._close(mount, file, temp)
        write = self._history.write((path, -1), data, trio.current_time())
        await self._or_doubt(mount, path, lambda: kernel.rename(f"/{temp}", f"/{path}"))
        write.ended_s = trio.current_time()
        self._written(mount, path, write)
        if self._rng.random() < 0.5:
            await self._fsync_directory(mount)

    async def _fsync_directory(self, mount: SimMount) -> None:
        fs = mount.kernel.fs
        handle = await fs.opendir(await mount.kernel.resolve(f"/{WORK}"), ROOT)
        begun_s = trio.current_time()
        try:
            await fs.fsyncdir(handle, False)
            if mount is self.mount:
                for name in (*NAMES, REMOVED):
                    self.unsaved.saved(f"{WORK}/{name}", begun_s)
        except CairnError:
            if mount is self.mount:
                for name in (*NAMES, REMOVED):
                    self.unsaved.failed(f"{WORK}/{name}")
            raise
        finally:
            await fs.releasedir(handle)

    async def _remove(self, mount: SimMount) -> None:
        path = f"{WORK}/{REMOVED}"
        write = self._history.write((path, -1), ABSENT, trio.current_time())
        await self._or_doubt(mount, path, lambda: mount.kernel.unlink(f"/{path}"))
        write.ended_s = trio.current_time()
        self._written(mount, path, write)

    async def _look_up(self, mount: SimMount) -> None:
        await self.look_up(mount, self._rng.choice((*NAMES, REMOVED)))

    async def look_up(self, mount: SimMount, name: str) -> None:
        """Read what is published under a name."""
        path = f"{WORK}/{name}"
        register: Register = (path, -1)
        begun_s = trio.current_time()
        try:
            file = await self._open(mount, path, os.O_RDONLY)
        except CairnError as error:
            if error.code != common.ERROR_CODE_NOT_FOUND:
                raise
            self._history.read(register, ABSENT, begun_s, trio.current_time(), self.name)
            return
        opened_s = trio.current_time()
        try:
            data = await file.read(0, 1 << 20)
        finally:
            await self._close(mount, file, path)
        if data or name != REMOVED:
            self._history.read(register, data or b"empty", begun_s, opened_s, self.name)

    # ------------------------------------------------------------------ the ledger

    async def _append(self, mount: SimMount) -> None:
        """Append a record to a file of one's own, and fsync it."""
        if self._appending:
            return
        self._appending = True
        path = f"{WORK}/{self.name}.log"
        try:
            file = await self._open(mount, path, os.O_CREAT | os.O_RDWR)
        except CairnError:
            self._appending = False
            raise
        try:
            await file.write(self.appended * RECORD_BYTES, record(self.name, self.appended))
            await file.fsync()
            if mount is self.mount:
                self.appended += 1
        finally:
            self._appending = False
            await self._close(mount, file, path)

    async def audit_ledger(self, mount: SimMount, client: "Client") -> None:
        """Every acknowledged record of `client` must be there."""
        acknowledged = client.appended
        if not acknowledged:
            return
        file = await self._open(mount, f"{WORK}/{client.name}.log", os.O_RDONLY)
        try:
            data = await file.read(0, 1 << 20)
        finally:
            await self._close(mount, file, f"{WORK}/{client.name}.log")
        expected = b"".join(record(client.name, number) for number in range(acknowledged))
        assert data[: len(expected)] == expected, (
            f"lost: records of {client.name}, acknowledged {acknowledged}"
        )


def record(name: str, number: int) -> bytes:
    """One entry of a ledger."""
    return f"{name} {number} ".encode().ljust(RECORD_BYTES, b".")


def _value(data: bytes) -> bytes:
    """What a page says, short; mixed pages say so."""
    if not data.strip(b"\0"):
        return INITIAL
    head, semicolon, _ = data.partition(b";")
    whole = (head + semicolon) * (len(data) // max(len(head), 1) + 1)
    return head if semicolon and whole[: len(data)] == data else b"mixed: " + data[:40]
