"""A selector without surprises, for tests: the lowest node numbers."""

from collections.abc import Sequence
from random import Random

from cairnfs.coordinator.placement.selector import Candidate


class FirstHealthySelector:
    """Takes candidates in the order of their numbers."""

    def select(
        self, candidates: Sequence[Candidate], count: int, held: Sequence[Candidate], rng: Random
    ) -> list[Candidate]:
        """See `Selector.select`; neither `held` nor `rng` matters."""
        return sorted(candidates, key=lambda node: node.number)[:count]
