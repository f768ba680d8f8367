"""Records of trees that are being copied or removed, and the realm of all snapshots."""

from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import ROOT_INO, SNAPSHOTS_REALM
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import usage
from cairnfs.coordinator.records import Realm, TreeJob, TreeState
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb

_LINKS_PER_STEP: Final = 500


def find(txn: ReadTransaction, number: int) -> TreeJob | None:
    """The job with this number, or None."""
    value = txn.get(keys.tree_job(number))
    return None if value is None else TreeJob.decode(value)


def load_copying(txn: ReadTransaction, number: int) -> TreeJob:
    """The job with this number. Raises CairnError CONFLICT unless it is copying."""
    job = find(txn, number)
    if job is None or job.state is not TreeState.COPYING:
        raise CairnError(pb.ERROR_CODE_CONFLICT, f"tree {number} is not copied any more")
    return job


def save(txn: Transaction, number: int, job: TreeJob) -> None:
    """Write a job."""
    txn.put(keys.tree_job(number), job.encode())


def scan(txn: ReadTransaction) -> list[tuple[int, TreeJob]]:
    """Every job, by its number."""
    pairs = txn.scan(*keys.tree_job_range())
    return [(keys.tree_job_number(key), TreeJob.decode(value)) for key, value in pairs]


def is_root(txn: ReadTransaction, ino: int) -> bool:
    """Whether this is the root of a tree that has no name, because it is being copied or removed."""
    job = find(txn, ino)
    return job is not None and job.root == ino


def is_copying(txn: ReadTransaction) -> bool:
    """Whether some tree is copied from a view of the past, whose chunks must stay."""
    return any(job.state is TreeState.COPYING for _, job in scan(txn))


def give_up(txn: Transaction, number: int) -> bool:
    """What was copied so far is to be removed; false when the job is not copying any more."""
    job = find(txn, number)
    if job is None or job.state is not TreeState.COPYING:
        return False
    save(txn, number, job._replace(state=TreeState.ABANDONED, inodes=0, shared_bytes=0))
    return True


def end(txn: Transaction, number: int) -> bool:
    """Forget a job whose root is gone or has a name: first its notes on files with several names.

    False when some are left; call again.
    """
    found = [key for key, _ in txn.scan(*keys.copied_link_range(number), limit=_LINKS_PER_STEP + 1)]
    for key in found[:_LINKS_PER_STEP]:
        txn.delete(key)
    if len(found) > _LINKS_PER_STEP:
        return False
    txn.delete(keys.tree_job(number))
    return True


def make_realm(txn: Transaction) -> None:
    """Make the realm of snapshots unless there is one. Only the whole file system encloses it."""
    if usage.find_realm(txn, SNAPSHOTS_REALM) is None:
        usage.save_realm(txn, SNAPSHOTS_REALM, Realm(parent=ROOT_INO))
