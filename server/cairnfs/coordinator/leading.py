"""Staying the leader of the engine, and noticing in time when that failed."""

import asyncio
import time

from cairnfs.base.limits import LEADERSHIP_RENEWALS
from cairnfs.base.logs import get_logger
from cairnfs.engine.interface import Engine, EngineBroken, EngineDeposed, EngineError

_log = get_logger(__name__)


async def keep_leading(engine: Engine, term_s: float) -> None:
    """Renew leadership for ever, a few times per term of `term_s`.

    Raises EngineDeposed at the latest when the term ends without having been renewed: from then on another
    coordinator may lead, so this one must answer nobody.
    """
    while True:
        left_s = engine.leads_until_s - time.monotonic()
        if left_s <= 0.0:
            raise EngineDeposed("the term of leadership ended without being renewed")
        await asyncio.sleep(min(term_s / LEADERSHIP_RENEWALS, left_s))
        left_s = engine.leads_until_s - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(left_s, term_s))):
                await asyncio.to_thread(engine.renew_leadership)
        except EngineBroken:
            raise
        except (EngineError, TimeoutError) as error:
            _log.info("leadership_not_renewed", reason=str(error) or "no answer in time")
