"""The default selector: free space decides, racks and hosts are kept apart where possible."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from cairnfs.coordinator.placement.selector import Candidate


class CapacitySelector:
    """Draws nodes with a chance in proportion to free space, first where racks and hosts have fewest."""

    def select(
        self, candidates: Sequence[Candidate], count: int, held: Sequence[Candidate], rng: Random
    ) -> list[Candidate]:
        """See `Selector.select`."""
        left = list(candidates)
        racks = Counter(node.rack for node in held)
        hosts = Counter(node.host_id for node in held)
        picked: list[Candidate] = []
        while left and len(picked) < count:
            choice = _draw(_most_apart(left, racks, hosts), rng)
            left.remove(choice)
            racks[choice.rack] += 1
            hosts[choice.host_id] += 1
            picked.append(choice)
        return picked


def _most_apart(nodes: list[Candidate], racks: Counter[str], hosts: Counter[str]) -> list[Candidate]:
    """Those whose rack has the fewest replicas, and among them those whose host has the fewest."""
    crowds = [(racks[node.rack], hosts[node.host_id]) for node in nodes]
    fewest = min(crowds)
    return [node for node, crowd in zip(nodes, crowds, strict=True) if crowd == fewest]


def _draw(nodes: list[Candidate], rng: Random) -> Candidate:
    return rng.choices(nodes, weights=[max(1, node.free_bytes) for node in nodes])[0]
