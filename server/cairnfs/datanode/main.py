"""The datanode process: from settings to an exit status."""

import asyncio
import json
import os
import resource
import signal
import sys
from typing import Final, cast

import uvloop

from cairnfs.base.errors import CairnError
from cairnfs.base.logs import LogFormat, configure_logging, get_logger
from cairnfs.base.settings import DatanodeSettings
from cairnfs.datanode.node import Datanode

_log = get_logger(__name__)
FAILED: Final = 1


def run(settings: DatanodeSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    When serving, writes {"address": "host:port"} and a newline to `settings.ready_fd`. What prevents
    serving is reported as one line on stderr, with status 1.
    """
    try:
        configure_logging("datanode", settings.log_level, cast(LogFormat, settings.log_format))
        _raise_file_limit()
        return uvloop.run(_serve(settings))
    except CairnError as error:
        print(f"cairnfs datanode: {error.detail or error}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"cairnfs datanode: {error}", file=sys.stderr)
    return FAILED


def _raise_file_limit() -> None:
    """Every pack stays open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: DatanodeSettings) -> int:
    datanode = Datanode(settings)
    try:
        await datanode.start()
        _announce(settings.ready_fd, datanode.address)
        _log.info("serving", address=datanode.address, chunks=datanode.store.usage().chunks)
        await _until_stopped(datanode)
    finally:
        await datanode.stop()
    _log.info("stopped")
    return 0


async def _until_stopped(datanode: Datanode) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    waiting = asyncio.create_task(stopped.wait())
    running = asyncio.create_task(datanode.run())
    await asyncio.wait((waiting, running), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def _announce(ready_fd: int, address: str) -> None:
    if ready_fd >= 0:
        os.write(ready_fd, json.dumps({"address": address}).encode() + b"\n")
        os.close(ready_fd)
