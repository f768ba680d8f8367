"""One running datanode: its parts put together, started and stopped in order."""

import asyncio
from pathlib import Path
from random import Random
from typing import Final

from cairnfs.base.clock import SystemClock
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.base.settings import DatanodeSettings
from cairnfs.bulk.shared import SharedBuffers
from cairnfs.datanode import upkeep
from cairnfs.datanode.coordinators import Coordinators
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.disks.array import DiskArray
from cairnfs.datanode.disks.directories import DataDirectories
from cairnfs.datanode.heartbeat import Heartbeats, Place
from cairnfs.datanode.membership import Membership
from cairnfs.datanode.peers import Peers
from cairnfs.datanode.scrubber import Scrubber
from cairnfs.datanode.service import ChunksService
from cairnfs.datanode.side_socket import SideSocket
from cairnfs.datanode.store.local import LocalChunkStore
from cairnfs.datanode.store.requests import RequestLog
from cairnfs.datanode.tasks import TaskRunner
from cairnfs.rpc.v1 import common_pb2
from cairnfs.serving.server import Server

_log = get_logger(__name__)

STOP_GRACE_S: Final = 2.0
_LOOPBACK: Final = ("127.", "localhost:", "[::1]:")


def check_listen(listen: str, *, insecure: bool) -> None:
    """Raises CairnError INVALID for an address beyond loopback unless that is wanted."""
    if not insecure and not listen.startswith(_LOOPBACK):
        detail = f"listening on {listen} needs --insecure: there is no TLS yet"
        raise CairnError(common_pb2.ERROR_CODE_INVALID, detail)


def data_directories(settings: DatanodeSettings) -> list[Path]:
    """All of them, in the order of the settings."""
    further = [part.strip() for part in settings.disks.split(",") if part.strip()]
    return [Path(settings.data), *map(Path, further)]


class Datanode:
    """A datanode of one or several data directories. Make it and use it on one event loop."""

    def __init__(self, settings: DatanodeSettings) -> None:
        """Lock and read the data directories. Raises CairnError when that, or a setting, is wrong."""
        check_listen(settings.listen, insecure=settings.insecure)
        self.settings = settings
        self.address = ""
        self._heartbeats: Heartbeats | None = None
        self._loop = asyncio.get_running_loop()
        self._directories = DataDirectories(data_directories(settings))
        try:
            self.membership = Membership(self._directories)
            self.store = self._open_store()
        except BaseException:
            self._directories.close()
            raise
        self.disk = Disk(self.store)
        self._peers = Peers(self.membership, SystemClock())
        buffers = SharedBuffers()
        self._service = ChunksService(
            self.disk, self._peers, self.membership, SystemClock(), self._found_corrupt, buffers
        )
        self._side_socket = SideSocket(self.disk, buffers)
        self._server = Server(self._service.methods())

    def _open_store(self) -> DiskArray:
        settings = self.settings

        def open_store(root: Path, requests: RequestLog) -> LocalChunkStore:
            return LocalChunkStore(root, settings.capacity_bytes, settings.reserve_bytes, requests)

        disks = [(slot.root, slot.disk, slot.problem) for slot in self._directories.slots]
        return DiskArray(disks, open_store, SystemClock(), Random(), self._disk_changed)

    def _disk_changed(self) -> None:
        self._loop.call_soon_threadsafe(self._tell_of_disks)

    def _tell_of_disks(self) -> None:
        if self._heartbeats is not None:
            self._heartbeats.wake()

    @property
    def unix_socket(self) -> str:
        """The name of its socket in the abstract namespace."""
        return f"cairnfs-{self.membership.uuid}"

    async def start(self) -> None:
        """Listen and serve. Raises CairnError when the address cannot be had."""
        try:
            address = self._server.bind(self.settings.listen)
            self._server.bind_abstract(self.unix_socket)
        except OSError as error:
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, str(error)) from None
        await self._server.start()
        self._side_socket.start(self.unix_socket)
        self.address = address

    async def run(self) -> None:
        """Talk to the coordinators and care for the chunks.

        Raises CairnError WRONG_CLUSTER, or INVALID when no coordinator is named.
        """
        place = Place(self.settings.advertise or self.address, self.unix_socket, self.settings.rack)
        addresses = [part.strip() for part in self.settings.coordinators.split(",") if part.strip()]
        if not addresses:
            raise CairnError(common_pb2.ERROR_CODE_INVALID, "no coordinator is named")
        heartbeats = self._heartbeats = Heartbeats(
            Coordinators(addresses), self.membership, self.disk, self.store, place, self.settings.heartbeat_s
        )
        tasks = heartbeats.tasks = TaskRunner(self.disk, self._peers, heartbeats.wake)
        heartbeats.peers = self._peers
        scrubber = heartbeats.scrubber = Scrubber(
            self.disk, self.settings.scrub_bytes_per_s, heartbeats.found_corrupt, SystemClock()
        )
        parts = [
            asyncio.create_task(heartbeats.run(), name="heartbeats"),
            asyncio.create_task(upkeep.maintain(self.disk), name="maintain"),
            asyncio.create_task(upkeep.watch_disks(self.disk, self.store), name="watch disks"),
            asyncio.create_task(scrubber.run(), name="scrub"),
        ]
        try:
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await tasks.close()
            await heartbeats.close()

    def _found_corrupt(self, chunk_id: bytes) -> None:
        if self._heartbeats is not None:
            self._heartbeats.found_corrupt(chunk_id)

    async def stop(self) -> None:
        """Stop serving, finish what runs on the disk, and release the data directories."""
        await self._service.drain(STOP_GRACE_S)
        await self._side_socket.close()
        await self._server.stop()
        await self._peers.close()
        await asyncio.to_thread(self.disk.close)
        self.store.close()
        self._directories.close()
