"""What must be true of a simulated cluster: at any moment, and after everything was healed."""

from collections.abc import Sequence

from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.namespace.check import Checker
from cairnfs.vfs.inodes import NO_LEASE, WRITE_LEASE
from tests.sim.cluster.clients import SimMount
from tests.sim.cluster.machines import REPLICAS, Machines


def check_leaders(machines: Machines) -> None:
    """No two coordinators serve."""
    serving = [name for name, one in machines.coordinators.items() if one.serving]
    assert len(serving) < 2, f"two coordinators serve: {serving}"


def check_leases(machines: Machines, mounts: Sequence[SimMount]) -> None:
    """Nobody trusts a lease that conflicts with what another mount trusts."""
    held: dict[int, tuple[str, int]] = {}
    for mount in mounts:
        if mount.crashed or not mount.session.trusted:
            continue
        for inode in mount.kernel.fs.state.inodes:
            if inode.lease == NO_LEASE:
                continue
            other = held.get(inode.ino)
            if other is None:
                held[inode.ino] = (mount.host, inode.lease)
            elif WRITE_LEASE in (other[1], inode.lease):
                raise AssertionError(
                    f"conflicting leases: inode {inode.ino} is leased to {other[0]} ({other[1]}) and to "
                    f"{mount.host} ({inode.lease})"
                )


def _holders(machines: Machines) -> dict[int, set[bytes]]:
    """Whole chunks on each datanode's disk, by its number."""
    return {
        one.node.membership.node: set(machines.disks[name].chunks())
        for name, one in machines.datanodes.items()
        if one.node is not None
    }


def missing(machines: Machines) -> list[str]:
    """Referenced chunks that lack replicas, in their records or on disks."""
    holders = _holders(machines)
    records = machines.database.engine.read(lambda txn: chunk_table.scan_chunks(txn, b"", 1_000_000))
    found: list[str] = []
    for chunk_id, record in records:
        if not record.references:
            continue
        whole = [node for node in record.nodes if chunk_id in holders.get(node, ())]
        if len(whole) < REPLICAS or len(whole) < len(record.nodes):
            found.append(f"{chunk_id.hex()[:8]}: recorded on {record.nodes}, whole on {whole}")
    return found


def metadata_faults(machines: Machines) -> list[str]:
    """What fsck finds wrong with the metadata."""
    checker = Checker(REPLICAS, lambda _node: True)
    while not machines.database.engine.read(lambda txn: checker.step(txn, 1_000)):
        pass
    return list(checker.report.problems)


def leaks(machines: Machines) -> list[str]:
    """Chunks on disks, or in records, that nothing refers to."""
    records = machines.database.engine.read(lambda txn: chunk_table.scan_chunks(txn, b"", 1_000_000))
    wanted = {chunk_id: record for chunk_id, record in records if record.references}
    found = [f"{chunk_id.hex()[:8]}: garbage" for chunk_id, record in records if not record.references]
    for one in machines.datanodes.values():
        if one.node is None:
            continue
        node, listed = one.node.membership.node, one.node.store.list_chunks(b"", 1_000_000)
        found += [
            f"{entry.chunk_id.hex()[:8]}: left on {node}"
            for entry in listed
            if entry.chunk_id not in wanted or node not in wanted[entry.chunk_id].nodes
        ]
    return found
