"""The default selector: free space decides, racks and hosts are kept apart where possible."""

from collections.abc import Sequence
from random import Random

from cairnfs.coordinator.placement.selector import Candidate


class CapacitySelector:
    """Draws nodes with a chance in proportion to their free space, from unused racks and hosts first."""

    def select(
        self, candidates: Sequence[Candidate], count: int, held: Sequence[Candidate], rng: Random
    ) -> list[Candidate]:
        """See `Selector.select`."""
        left = list(candidates)
        racks = {node.rack for node in held}
        hosts = {node.host_id for node in held}
        picked: list[Candidate] = []
        while left and len(picked) < count:
            choice = _draw(_most_apart(left, racks, hosts), rng)
            left.remove(choice)
            racks.add(choice.rack)
            hosts.add(choice.host_id)
            picked.append(choice)
        return picked


def _most_apart(nodes: list[Candidate], racks: set[str], hosts: set[str]) -> list[Candidate]:
    in_other_rack = [node for node in nodes if node.rack not in racks and node.host_id not in hosts]
    if in_other_rack:
        return in_other_rack
    return [node for node in nodes if node.host_id not in hosts] or nodes


def _draw(nodes: list[Candidate], rng: Random) -> Candidate:
    return rng.choices(nodes, weights=[max(1, node.free_bytes) for node in nodes])[0]
