"""What one walk over all chunk records counted."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Figures by node count replicas of referenced chunks; `left` ones those that depend on a draining node.

    `draining` are the nodes that were drained during the whole walk; `surplus` counts chunks with replicas
    too many, which cannot be given up now.
    """

    chunks: int = 0
    under_replicated: int = 0
    surplus: int = 0
    garbage: int = 0
    held_chunks: Counter[int] = field(default_factory=Counter[int])
    held_bytes: Counter[int] = field(default_factory=Counter[int])
    left_chunks: Counter[int] = field(default_factory=Counter[int])
    left_bytes: Counter[int] = field(default_factory=Counter[int])
    draining: set[int] = field(default_factory=set[int])
