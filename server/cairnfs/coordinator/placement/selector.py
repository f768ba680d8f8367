"""What a placement plug-in is: it orders and picks among nodes that may take a chunk.

A plug-in is registered under the entry point group `cairnfs.selectors`; the entry point names a callable
without arguments that returns a `Selector`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as selectors see it; `free_bytes` is what is left for new chunks."""

    number: int
    host_id: str
    rack: str
    free_bytes: int
    capacity_bytes: int


class Selector(Protocol):
    """Picks nodes for the replicas of one chunk; keeps no state."""

    def select(
        self, candidates: Sequence[Candidate], count: int, held: Sequence[Candidate], rng: Random
    ) -> list[Candidate]:
        """At most `count` different ones of `candidates`, best first (the first is the primary).

        All candidates are healthy and have room. `held` already have the chunk and are no candidates:
        new replicas should not share their rack or host. Fewer than `count` are returned only when
        there are fewer candidates. All randomness comes from `rng`.
        """
        ...
