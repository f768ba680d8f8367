"""The process behind one mount: connects, mounts, serves until it is unmounted or told to stop."""

import json
import os
import platform
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import host_id
from cairnfs.base.logs import LogFormat, configure_logging, get_logger
from cairnfs.base.settings import MountSettings
from cairnfs.client.chunks import ChunkClient
from cairnfs.client.grpc_transport import GrpcChunkTransport, GrpcMetadataTransport
from cairnfs.client.session import Session
from cairnfs.client.session_core import Identity
from cairnfs.fuse import mounts
from cairnfs.fuse.answers import KernelAnswers
from cairnfs.fuse.attributes import Presentation
from cairnfs.fuse.notifier import Notifier
from cairnfs.fuse.server import MountFailed, Mounting, connection, serve
from cairnfs.mount.checks import check_mountpoint, check_sharing, check_system
from cairnfs.mount.errors import EXIT_FAILED, EXIT_INTERNAL, EXIT_USAGE, MountRefused
from cairnfs.mount.options import MountOptions, parse_options
from cairnfs.vfs.chunk_files import ChunkFiles
from cairnfs.vfs.core import VFS
from cairnfs.vfs.disk_cache import DiskCache
from cairnfs.vfs.state import KERNEL_TIMEOUT_S, MountPolicy

_log = get_logger(__name__)

_FLUSH_S = limits.FUSE_FLUSH_DEADLINE_S


def run(settings: MountSettings, on_ready: Callable[[], None] = lambda: None) -> int:
    """Serve one mount and return its exit status: 0 after an unmount or SIGTERM with everything saved.

    When the mount answers, `on_ready` is called and one JSON line goes to `settings.ready_fd`. What prevents
    mounting is said in one line on stderr, with the exit status of mount(8).
    """
    try:
        options = parse_options(settings.options)
        configure_logging("mount", options.log_level or settings.log_level, _log_format(settings))
        check_system()
        check_sharing(options.kernel)
        check_mountpoint(settings.mountpoint, nonempty=options.nonempty)
        trio.run(_main, settings, options, on_ready)
    except MountRefused as refused:
        return _say(str(refused), refused.exit_code)
    except MountFailed as failed:
        return _say(str(failed), EXIT_FAILED)
    except BaseExceptionGroup as group:
        return _say_cause(settings, group)
    except CairnError as error:
        return _say_cause(settings, error)
    return 0


def _say(message: str, exit_code: int) -> int:
    print(f"mount.cairnfs: {message}", file=sys.stderr, flush=True)
    return exit_code


def _say_cause(settings: MountSettings, error: BaseException) -> int:
    """Unwrap what nurseries put around the one thing that went wrong."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case MountRefused():
            return _say(str(error), error.exit_code)
        case MountFailed():
            return _say(str(error), EXIT_FAILED)
        case CairnError():
            return _say(f"{settings.coordinators}:{settings.subdir}: {error}", EXIT_FAILED)
        case _:
            _log.error("the mount ended by a bug", exc_info=error)
            return EXIT_INTERNAL


def _log_format(settings: MountSettings) -> LogFormat:
    return "text" if settings.log_format == "text" else "json"


async def _main(settings: MountSettings, options: MountOptions, on_ready: Callable[[], None]) -> None:
    notifier = Notifier()
    async with _file_system(settings, options, notifier) as vfs, trio.open_nursery() as nursery:
        mounting = Mounting(
            settings.mountpoint,
            fuse_options(f"{settings.coordinators}:{settings.subdir}", options, root=os.geteuid() == 0),
            Presentation(vfs.root_ino, options.uid, options.gid),
        )
        vfs.state.answers = KernelAnswers(mounting.presentation, KERNEL_TIMEOUT_S)
        await nursery.start(_stop_on_signals, vfs, nursery.cancel_scope)
        await serve(vfs, mounting, notifier, partial(nursery.start_soon, _announce, settings, on_ready))
        nursery.cancel_scope.cancel()
    _log.info("unmounted", mountpoint=str(settings.mountpoint))


@asynccontextmanager
async def _file_system(
    settings: MountSettings, options: MountOptions, notifier: Notifier
) -> AsyncIterator[VFS]:
    """All parts of the client, put together; at the end everything unsent is sent and the session closed."""
    host = host_id()
    identity = Identity(
        host_id=host,
        subdir=settings.subdir,
        read_only=options.read_only,
        description=f"{socket.gethostname()}:{settings.mountpoint}",
        client_version=platform.python_version(),
    )
    policy = MountPolicy(
        dirty_max_bytes=options.dirty_max_bytes or settings.dirty_max_bytes,
        read_cache_max_bytes=_first(options.read_cache_max_bytes, settings.read_cache_max_bytes),
        sync_on_close=options.sync,
    )
    async with trio.open_nursery() as nursery:
        session = Session(GrpcMetadataTransport(nursery), settings.coordinators.split(","), identity)
        async with ChunkClient.open(session, GrpcChunkTransport(nursery, host), host) as chunks:
            vfs = VFS(session, chunks, notifier, nursery, policy, disk_cache=disk_cache(settings, options))
            await nursery.start(session.run, vfs.events, limits.MOUNT_CONNECT_S)
            nursery.start_soon(_keep_trusted, vfs, session)
            try:
                yield vfs
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _FLUSH_S):
                    try:
                        await vfs.close(_FLUSH_S)
                    finally:
                        await session.close()
                        nursery.cancel_scope.cancel()


async def _keep_trusted(vfs: VFS, session: Session) -> None:
    """What the kernel is told without the file system is trusted as long as the caches are."""
    while True:
        vfs.state.answers.trust_until(session.trusted_until_s)
        await trio.sleep(limits.SESSION_HEARTBEAT_S / 2)


def disk_cache(settings: MountSettings, options: MountOptions) -> DiskCache | None:
    """The read cache on disk, if there is to be one; MountRefused when its directory cannot be used."""
    directory = options.cache_dir or (Path(settings.cache_dir) if settings.cache_dir else None)
    if directory is None:
        return None
    try:
        return DiskCache(ChunkFiles(directory, options.cache_size_bytes or settings.cache_size_bytes))
    except OSError as error:
        raise MountRefused(f"cache_dir {error.filename}: {error.strerror}", EXIT_USAGE) from error


def _first(chosen: int | None, default: int) -> int:
    return default if chosen is None else chosen


def fuse_options(source: str, options: MountOptions, *, root: bool) -> set[str]:
    """What fuse(8) gets: the source as fsname, checks by the kernel, access for all when root mounts."""
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")
    always = {f"fsname={escaped}", "subtype=cairnfs", "default_permissions"}
    access = {"allow_other"} if root and "allow_root" not in options.kernel else set[str]()
    return always | access | (set(options.kernel) - {"rw"})


async def _stop_on_signals(
    vfs: VFS, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """SIGTERM and SIGINT save everything first, so that no caller loses what it wrote, and then unmount."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            break
        try:
            await vfs.close(_FLUSH_S)
        finally:
            scope.cancel()


async def _announce(settings: MountSettings, on_ready: Callable[[], None]) -> None:
    if not mounts.set_read_ahead(settings.mountpoint, limits.READ_AHEAD_BYTES):
        _log.debug("read-ahead left at the kernel's default")
    on_ready()  # first: it may let go of the terminal, which needs no logs
    _log.info("mounted", mountpoint=str(settings.mountpoint), **connection())
    if settings.ready_fd >= 0:
        line = {
            "address": f"{settings.coordinators}:{settings.subdir}",
            "mountpoint": str(settings.mountpoint),
        }
        os.write(settings.ready_fd, json.dumps(line).encode() + b"\n")
        os.close(settings.ready_fd)
