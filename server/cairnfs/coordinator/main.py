"""The coordinator process: from settings to an exit status."""

import asyncio
import json
import os
import signal
import sys
from typing import Final, cast

import uvloop

from cairnfs.base.errors import CairnError
from cairnfs.base.logs import LogFormat, configure_logging, get_logger
from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.assembly import Coordinator, check_listen
from cairnfs.engine.interface import Engine, EngineError, EngineLocked
from cairnfs.engine.open import open_engine

_log = get_logger(__name__)
FAILED: Final = 1


def run(settings: CoordinatorSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    When serving, writes {"address": "host:port"} and a newline to `settings.ready_fd`. What prevents
    serving is reported as one line on stderr, with status 1.
    """
    try:
        configure_logging("coordinator", settings.log_level, cast("LogFormat", settings.log_format))
        check_listen(settings)
        engine = open_engine(settings.engine, settings.data)
    except EngineLocked:
        return _refuse(f"another coordinator uses {settings.data}")
    except (EngineError, CairnError, OSError, ValueError) as error:
        return _refuse(error)
    try:
        return uvloop.run(_serve(settings, engine))
    except (EngineError, CairnError, OSError, ValueError) as error:
        return _refuse(error)
    finally:
        engine.close()


def _refuse(reason: object) -> int:
    print(f"cairnfs coordinator: {' '.join(str(reason).split())}", file=sys.stderr)
    return FAILED


async def _serve(settings: CoordinatorSettings, engine: Engine) -> int:
    coordinator = Coordinator(settings, engine)
    try:
        await coordinator.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, coordinator.request_stop)
        _announce(settings.ready_fd, coordinator.address)
        _log.info("serving", address=coordinator.address, cluster=coordinator.cluster_id)
        await coordinator.run()
    finally:
        await coordinator.stop()
    if coordinator.failed:
        return _refuse("the metadata engine failed; start again")
    _log.info("stopped")
    return 0


def _announce(ready_fd: int, address: str) -> None:
    if ready_fd >= 0:
        os.write(ready_fd, json.dumps({"address": address}).encode() + b"\n")
        os.close(ready_fd)
