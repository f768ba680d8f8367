"""Who leads a PostgreSQL engine: one row with the epoch, which every commit compares and locks.

No clock is compared with another: who wants to lead watches the row, and takes over when nothing in it has
changed for a whole term of the leader. The leader counts its term from before it asked for it.
"""

import contextlib
import threading
import time
from typing import Final

from cairnfs.base.limits import ENGINE_READ_S, LEADERSHIP_PERCENT
from cairnfs.engine import postgres_tables as tables
from cairnfs.engine.interface import EngineDeposed, EngineError, EngineLocked
from cairnfs.engine.postgres_connection import ConnectionLost, Result, bigint
from cairnfs.engine.postgres_link import Link, Retry

_Observed = tuple[bytes | None, ...]


class Leadership:
    """The leadership of one engine, had, wanted or lost. For any thread."""

    def __init__(self, link: Link, name: str) -> None:
        self._link: Final = link
        self._name: Final = name
        self._lock: Final = threading.Lock()
        self._term_s = 0.0
        self._watched: _Observed = ()  # the row as last seen
        self._watched_since_s = 0.0  # for how long it has been like that
        self.epoch = 0  # 0: never acquired
        self.until_s = 0.0

    def acquire(self, owner: str, term_s: float) -> int:
        """See Engine.acquire_leadership; call it again and again to stand by."""
        with self._lock:
            now_s = time.monotonic()
            (row,) = self._ask(tables.OBSERVE).rows
            if row != self._watched:
                self._watched, self._watched_since_s = row, time.monotonic()
            epoch, renewals, commits, term_ms, leader = row
            left_s = int.from_bytes(term_ms or b"", "big") / 1e3 - (now_s - self._watched_since_s)
            name = (leader or b"").decode()
            if name not in ("", owner) and left_s > 0:
                raise EngineLocked(f"{self._name} is led by {name}, for {left_s:.1f} s from now or longer")
            now_s = time.monotonic()
            expected = (epoch or b"", renewals or b"", commits or b"")
            rows = self._ask(tables.DEPOSE, owner.encode(), bigint(round(term_s * 1e3)), *expected).rows
            if not rows:
                raise EngineLocked(f"{self._name}: somebody else took the lead, or the leader came back")
            self.epoch = int.from_bytes(rows[0][0] or b"", "big")
            self._term_s = term_s
            self.shown(now_s)
            return self.epoch

    def renew(self) -> None:
        """See Engine.renew_leadership."""
        with self._lock:
            now_s = time.monotonic()
            if not self._ask(tables.RENEW, bigint(self.epoch), bigint(round(self._term_s * 1e3))).rows:
                raise self.deposed()
            self.shown(now_s)

    def shown(self, since_s: float) -> None:
        """A change to the row that began then succeeded: whoever watches it waits for a whole term more."""
        self.until_s = max(self.until_s, since_s + self._term_s * LEADERSHIP_PERCENT / 100)

    def deposed(self) -> EngineDeposed:
        """What to raise when the row has another epoch."""
        self.until_s = 0.0
        return EngineDeposed(f"{self._name}: another coordinator leads since epoch {self.epoch}")

    def resign(self) -> None:
        """Let others lead from now on, if that can be told to the server at once; then hang up."""
        with self._lock:
            self.until_s = 0.0
            if self.epoch:
                with contextlib.suppress(EngineError):
                    self._ask(tables.RESIGN, bigint(self.epoch))
            self._link.drop()

    def _ask(self, name: bytes, *parameters: bytes) -> Result:
        """The answer; asked again when a connection breaks, which does no harm to any of these."""
        retry = Retry(ENGINE_READ_S)
        while True:
            try:
                connection = self._link.get(retry.left_s)
                connection.send(name, *parameters)
                return connection.sync(retry.left_s)[0]
            except ConnectionLost as lost:
                self._link.drop()
                retry.pause(lost)
