"""Counts requests to store chunks, so that an outdated decision to delete one is recognised."""

import threading
from collections.abc import Sequence

from cairnfs.base.ids import new_id


class RequestLog:
    """Which chunks were requested when, in this opening of the store. Its owner's lock guards it."""

    def __init__(self) -> None:
        self.boot = new_id()
        self.seq = 0
        self.lock = threading.Lock()
        self._last: dict[bytes, int] = {}

    def note(self, chunk_id: bytes) -> None:
        """Count one request."""
        self.seq += 1
        self._last[chunk_id] = self.seq

    def forget(self, chunk_id: bytes) -> None:
        """The chunk is gone: a new request counts anew."""
        self._last.pop(chunk_id, None)

    def protects(self, chunk_id: bytes, as_of_seq: int, boot: str) -> bool:
        """Whether the decision to delete, made with this knowledge, is outdated."""
        return boot != self.boot or self._last.get(chunk_id, 0) > as_of_seq

    def kept(self, chunk_ids: Sequence[bytes], as_of_seq: int, boot: str) -> list[bytes]:
        """Those of `chunk_ids` that must stay."""
        return [chunk_id for chunk_id in chunk_ids if self.protects(chunk_id, as_of_seq, boot)]
