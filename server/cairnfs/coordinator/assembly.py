"""One coordinator put together: engine, conductor, membership, upkeep and the server they listen on."""

import asyncio
import ipaddress
import math
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any, Final

from cairnfs.base.clock import Clock, SystemClock
from cairnfs.base.ids import new_id
from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.attention import AttentiveClock
from cairnfs.coordinator.backups import Backups
from cairnfs.coordinator.conductor import Conductor, Config
from cairnfs.coordinator.driver import Driver
from cairnfs.coordinator.leading import keep_leading
from cairnfs.coordinator.membership import nodes_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.operations import membership_operations
from cairnfs.coordinator.membership.service import NodesService
from cairnfs.coordinator.meta_files import stream_dump
from cairnfs.coordinator.namespace.ids import IdAllocator, reserve_inode_numbers
from cairnfs.coordinator.namespace.mkfs import format_file_system
from cairnfs.coordinator.namespace.registry import OPERATIONS
from cairnfs.coordinator.placement.placer import Placer
from cairnfs.coordinator.placement.registry import load_selector
from cairnfs.coordinator.service import MetadataService, Server
from cairnfs.coordinator.sessions import next_incarnation
from cairnfs.coordinator.status import reporter
from cairnfs.coordinator.store import MetadataStore
from cairnfs.coordinator.upkeep.fsck import run_fsck
from cairnfs.coordinator.upkeep.runner import UpkeepRunner
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.engine.committer import Committer, Done
from cairnfs.engine.dump import is_loading
from cairnfs.engine.interface import Engine, Operation, Outcome
from cairnfs.rpc.v1 import metadata_pb2 as pb


class Coordinator:
    """Made on a running event loop over an open engine that it leads, and that stays the caller's."""

    def __init__(self, settings: CoordinatorSettings, engine: Engine, clock: Clock | None = None) -> None:
        """Raises ValueError or CairnError when the settings or the metadata cannot be used."""
        check_listen(settings)
        self._settings = settings
        self._clock = AttentiveClock(clock if clock is not None else SystemClock())
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self._engine = engine
        self.failed = False
        self.address = ""
        self._server: Server | None = None
        self.cluster_id, incarnation, numbers = _prepare(engine, self._clock)
        self._committer = Committer(engine, self._deliver)
        self.store: Final = MetadataStore(engine, self._committer, self._loop)
        self.config: Final = Config(self.cluster_id, incarnation, settings.replicas, settings.lease_s)
        self._backups = _backups(settings, engine, self._clock)
        self._build(numbers)

    def _build(self, numbers: IdAllocator) -> None:
        settings, clock, store = self._settings, self._clock, self.store
        now_s = clock.monotonic()
        self.manager = NodeManager(
            settings,
            self.cluster_id,
            first_version=self.config.incarnation << 32,
            wall_ms=lambda: clock.wall_ns() // 1_000_000,
        )
        self.manager.restore(store.read(lambda txn: list(nodes_table.scan_nodes(txn))), now_s)
        placer = Placer(self.manager, load_selector(settings.selector), Random())
        self.upkeep = Upkeep(settings, self.manager, placer, now_s)
        registry = dict(OPERATIONS)
        for spec in membership_operations(self.manager, placer, self.upkeep):
            registry[spec.name] = spec
        self.conductor = Conductor(
            self.config, clock, registry, store.read, numbers, self.manager.cluster_map, store.snapshot
        )
        self.driver = Driver(
            self.conductor, self._committer, self._storage_failed, settings.lease_s, self._is_deposed
        )
        self._status = reporter(
            self.config, self.conductor, store, self.manager, self.upkeep, clock, self._backups
        )
        self.manager.subscribe(self.driver.node_update)

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Listen and serve. Raises OSError when the address cannot be had."""
        settings = self._settings
        metadata = MetadataService(
            self.driver,
            self._status,
            self.manager.cluster_map,
            self._fsck,
            lambda _request, _context: stream_dump(self._engine),
        )
        nodes = NodesService(self.store, self.manager, self.upkeep, self._clock, settings.heartbeat_s)
        self._server = Server(metadata, nodes, self._is_deposed)
        self.address = self._server.bind(settings.listen)
        self.driver.start()
        await self._server.start()
        runner = UpkeepRunner(self.store, self.upkeep, self._clock)
        works = [self.driver.run(self.manager.low_space), runner.run()]
        if self._backups is not None:
            works.append(self._backups.run())
        if math.isfinite(self._engine.leads_until_s):
            works.append(keep_leading(self._engine, settings.lease_s))
        for work in works:
            self._background.append(asyncio.create_task(work))

    async def run(self) -> None:
        """Serve until `request_stop`, or until storage or a background task fails (`failed` is then set)."""
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((stopping, *self._background), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in self._background:
            if task.done():
                self.failed = True
                task.result()

    def request_stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    async def stop(self) -> None:
        """Stop serving. Clients are told nothing: they connect again and bring back what they hold."""
        if self._server is not None:
            await self._server.stop()
        self.driver.stop()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.to_thread(self._committer.close)

    async def _fsck(self, request: pb.FsckRequest, _context: Any) -> AsyncIterator[pb.FsckProgress]:
        async for progress in run_fsck(self.store, self.upkeep, self._clock, request, self.driver):
            yield progress

    # ------------------------------------------------------------------ the committer's thread

    def _deliver(self, batch: list[tuple[Done, Outcome]]) -> None:
        self._loop.call_soon_threadsafe(self.driver.delivered, batch)

    def _is_deposed(self) -> bool:
        return time.monotonic() >= self._engine.leads_until_s

    def _storage_failed(self) -> None:
        self.failed = True
        self._stopping.set()


def check_listen(settings: CoordinatorSettings) -> None:
    """Raises ValueError for an address beyond loopback, which needs `insecure`."""
    host, colon, _port = settings.listen.rpartition(":")
    if not colon:
        raise ValueError(f"{settings.listen!r} is not HOST:PORT")
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not settings.insecure:
        raise ValueError(
            f"will not listen on {settings.listen} without TLS: set insecure if the network is trusted"
        )


def _backups(settings: CoordinatorSettings, engine: Engine, clock: Clock) -> Backups | None:
    if not settings.backup_dir:
        return None
    directory = Path(settings.backup_dir).expanduser()
    return Backups(engine, directory, settings.backup_interval_s, settings.backup_keep, clock)


def _prepare(engine: Engine, clock: Clock) -> tuple[str, int, IdAllocator]:
    """Make the file system if there is none, count this start, reserve inode numbers."""
    if engine.read(is_loading):
        raise ValueError("the engine holds a part of a dump: run `cairnfs meta load` again to its end")
    proposed, now_ns = new_id(), clock.wall_ns()
    outcomes = engine.commit(
        [
            # As mke2fs does: who makes it without being root could not write into it otherwise.
            Operation(
                lambda txn: format_file_system(txn, proposed, now_ns, uid=os.geteuid(), gid=os.getegid())
            ),
            Operation(next_incarnation),
            Operation(reserve_inode_numbers),
        ]
    )
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    numbers = IdAllocator()
    numbers.add(outcomes[2].value)
    return outcomes[0].value, outcomes[1].value, numbers
