"""Makes an empty file system: its identity, the root directory and the counters."""

from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import ROOT_INO
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.create import empty_directory
from cairnfs.coordinator.records import Realm
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb

FORMAT: Final = b"3"
_FORMAT_KEY: Final = keys.setting("format")
_CLUSTER_ID_KEY: Final = keys.setting("cluster_id")


def cluster_id(txn: ReadTransaction) -> str | None:
    """The identity of the file system, or None when the engine is empty."""
    value = txn.get(_CLUSTER_ID_KEY)
    return None if value is None else value.decode()


def format_file_system(
    txn: Transaction, new_cluster_id: str, now_ns: int, *, uid: int = 0, gid: int = 0
) -> str:
    """Make the file system unless there is one; returns the cluster id that holds.

    The root directory of a new one belongs to `uid` and `gid`.
    Raises CairnError NOT_SUPPORTED when the metadata have another format than this program's.
    """
    existing = cluster_id(txn)
    if existing is not None:
        found = txn.get(_FORMAT_KEY)
        if found != FORMAT:
            raise CairnError(pb.ERROR_CODE_NOT_SUPPORTED, f"metadata format {found!r}, not {FORMAT!r}")
        return existing
    root = empty_directory(ROOT_INO, ROOT_INO, 0o755, now_ns, uid=uid, gid=gid)
    tree.save(txn, ROOT_INO, root)
    usage.save_realm(txn, ROOT_INO, Realm(parent=0, used_inodes=1))
    txn.put(_FORMAT_KEY, FORMAT)
    txn.put(_CLUSTER_ID_KEY, new_cluster_id.encode())
    return new_cluster_id
