"""The coordinator process: from settings to an exit status."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final, cast

import uvloop

from cairnfs.base.errors import CairnError
from cairnfs.base.logs import LogFormat, configure_logging, get_logger
from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.assembly import Coordinator, check_listen
from cairnfs.engine.interface import Engine, EngineError, EngineLocked, EngineUnreachable
from cairnfs.engine.open import open_engine, owner_in

_log = get_logger(__name__)
FAILED: Final = 1
_STAND_BY_S: Final = 0.5  # between looks at whether the leader still lives


def run(settings: CoordinatorSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    When serving, writes {"address": "host:port"} and a newline to `settings.ready_fd`. What prevents
    serving is reported as one line on stderr, with status 1.
    """
    try:
        configure_logging("coordinator", settings.log_level, cast("LogFormat", settings.log_format))
        check_listen(settings)
        password_file = Path(settings.engine_password_file) if settings.engine_password_file else None
        engine = open_engine(settings.engine, settings.data, password_file)
    except EngineLocked:
        return _refuse(f"another coordinator uses {settings.data}")
    except (EngineError, CairnError, OSError, ValueError) as error:
        return _refuse(error)
    try:
        _lead(engine, settings)
        return uvloop.run(_serve(settings, engine))
    except (EngineError, CairnError, OSError, ValueError) as error:
        return _refuse(error)
    finally:
        engine.close()


def _lead(engine: Engine, settings: CoordinatorSettings) -> None:
    """Wait until this coordinator is the one that serves."""
    owner = owner_in(settings.data)
    standing_by = False
    while True:
        try:
            epoch = engine.acquire_leadership(owner, settings.lease_s)
        except (EngineLocked, EngineUnreachable) as error:
            if not standing_by:
                _log.info("standing_by", reason=str(error))
            standing_by = True
            time.sleep(min(_STAND_BY_S, settings.lease_s / 10))
        else:
            if standing_by:
                _log.info("leading", epoch=epoch)
            return


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
