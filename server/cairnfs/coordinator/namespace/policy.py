"""What an operator sets for a directory, and how that is told (docs/internals/realms.md)."""

from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import REPLICAS_MAX, ROOT_INO, SNAPSHOTS_REALM, TRASH_INO, TRASH_KEPT_MAX_S
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import file_policy, policies, retag, trash, tree, usage
from cairnfs.coordinator.records import AS_AROUND, Dentry, Realm, RealmState
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_STATES: Final = {
    RealmState.ACTIVE: pb.REALM_STATE_ACTIVE,
    RealmState.TAGGING: pb.REALM_STATE_TAGGING,
    RealmState.REMOVING: pb.REALM_STATE_REMOVING,
}
_LIMIT_MAX: Final = (1 << 63) - 1
_NAMES_SEARCHED: Final = 10_000  # of a directory, for the name of one in it


def change(txn: Transaction, request: pb.SetPolicyRequest, ino: int, now_ns: int) -> None:
    """Carry it out for a directory or file. Raises CairnError INVALID and what `retag`, `file_policy` do."""
    if request.replicas > REPLICAS_MAX:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"at most {REPLICAS_MAX} replicas are kept")
    if not AS_AROUND <= request.trash_s <= TRASH_KEPT_MAX_S:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"at most {TRASH_KEPT_MAX_S} s are kept")
    if ino == TRASH_INO:
        raise CairnError(common_pb2.ERROR_CODE_NOT_PERMITTED, "the trash has no policy of its own")
    inode = tree.load(txn, ino)
    tree.check_changeable(ino, inode)
    if not tree.is_directory(inode):
        file_policy.change(txn, request, ino, now_ns)
        return
    if request.remove or _leaves_nothing(request, ino, usage.find_realm(txn, ino)):
        retag.remove_realm(txn, ino, now_ns)
        return
    if max(request.space_limit_bytes, request.inodes_limit) > _LIMIT_MAX:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "a limit is too large")
    if request.trash_s > 0:
        trash.make(txn, now_ns)
    realm = retag.make_realm(txn, ino, now_ns)
    if request.HasField("space_limit_bytes"):
        realm = realm._replace(space_limit_bytes=request.space_limit_bytes)
    if request.HasField("inodes_limit"):
        realm = realm._replace(inodes_limit=request.inodes_limit)
    if request.HasField("replicas"):
        realm = realm._replace(replicas=request.replicas)
    if request.HasField("trash_s"):
        realm = realm._replace(trash_s=request.trash_s)
    usage.save_realm(txn, ino, realm)


def _leaves_nothing(request: pb.SetPolicyRequest, ino: int, realm: Realm | None) -> bool:
    """Whether what is taken back is the last that there is: the directory has borders no more."""
    no_replicas = request.HasField("replicas") and not request.replicas
    no_trash = request.HasField("trash_s") and request.trash_s == AS_AROUND
    if ino == ROOT_INO or not (no_replicas or no_trash):
        return False
    kept = realm or Realm(parent=0)
    space = request.space_limit_bytes if request.HasField("space_limit_bytes") else kept.space_limit_bytes
    inodes = request.inodes_limit if request.HasField("inodes_limit") else kept.inodes_limit
    replicas = request.replicas if request.HasField("replicas") else kept.replicas
    trash_s = request.trash_s if request.HasField("trash_s") else kept.trash_s
    return not space and not inodes and not replicas and trash_s == AS_AROUND


def scan(txn: ReadTransaction) -> list[tuple[int, Realm]]:
    """Every realm, by the number of its directory."""
    return [
        (int.from_bytes(key[1:], "big"), Realm.decode(value)) for key, value in txn.scan(*keys.realm_range())
    ]


def exclusive(txn: ReadTransaction) -> set[int]:
    """Realms where nobody may change anything in its own memory: snapshots; where a limit is, or will be."""
    realms = dict(scan(txn))
    found = {SNAPSHOTS_REALM} & realms.keys()
    for ino in realms:
        above = ino
        while above:
            realm = realms.get(above)
            if realm is None:  # lost: nobody knows what it allowed
                found.add(ino)
                break
            if realm.state != RealmState.ACTIVE or realm.space_limit_bytes or realm.inodes_limit:
                found.add(ino)
            above = realm.parent
    return found


def report(txn: ReadTransaction, ino: int, realm: Realm) -> pb.RealmReport:
    """What is told of a realm."""
    return pb.RealmReport(
        realm=ino,
        path=path_of(txn, ino),
        parent=realm.parent,
        state=_STATES[realm.state],
        replicas=realm.replicas,
        wished_replicas=policies.wish_of_realm(txn, ino).replicas,
        space_limit_bytes=realm.space_limit_bytes,
        inodes_limit=realm.inodes_limit,
        used_bytes=realm.used_bytes,
        used_inodes=realm.used_inodes,
        trash_s=realm.trash_s,
        kept_s=trash.retentions(txn).get(ino, 0),
        directories_left=sum(1 for _ in txn.scan(*keys.retag_range(ino))),
    )


def path_of(txn: ReadTransaction, ino: int) -> str:
    """Where a directory is; names in very large directories are not looked for, nor the several of a file."""
    names: list[str] = []
    if ino == SNAPSHOTS_REALM:
        return "(snapshots)"
    while ino != ROOT_INO:
        inode = tree.find_inode(txn, ino)
        if inode is not None and not tree.is_directory(inode):
            return f"(file {ino})"
        if inode is None or not inode.parent:
            return f"(removed) {ino}"
        names.append(_name_in(txn, inode.parent, ino))
        ino = inode.parent
    return "/" + "/".join(reversed(names))


def _name_in(txn: ReadTransaction, directory: int, ino: int) -> str:
    for key, value in txn.scan(*keys.dentry_range(directory), limit=_NAMES_SEARCHED):
        if Dentry.decode(value).ino == ino:
            return keys.dentry_name(key).decode(errors="surrogateescape").encode(errors="replace").decode()
    return f"(inode {ino})"
